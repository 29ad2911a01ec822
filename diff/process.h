// What differs in a task as a whole (model/process.h), and the operations that take it back. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "diff/difference.h"
#include "model/process.h"

namespace relive::diff {

struct SetSignalAction {
  int signal = 0;
  model::SignalAction action;
};
// Takes every signal that is pending for the task and queues these instead, in their order.
struct RequeueSignals {
  std::vector<model::QueuedSignal> wanted;
};
struct SetIntervalTimer {
  int which = 0;  // ITIMER_*
  model::IntervalTimer value;
};
struct SetPosixTimer {
  model::PosixTimer timer;  // lives, with the same attributes
};
// Makes a timer with the id wanted. `replaces`: a timer of that id lives, but is another one (other attributes, or its
// target thread has ended and was made again: the kernel's timer names the old one).
struct CreatePosixTimer {
  model::PosixTimer timer;
  bool replaces = false;
};
struct DeletePosixTimer {
  std::int32_t id = 0;
};
struct SetLimit {
  int resource = 0;  // RLIMIT_*
  model::Limit living;
  model::Limit wanted;
};
struct ChangeDirectory {
  std::string path;
};
struct ChangeRoot {
  std::string path;
};
struct SetUmask {
  std::uint32_t value = 0;
};
struct SetPersonality {
  std::uint64_t value = 0;
};
struct SetDumpable {
  std::int32_t value = 0;
};
struct SetOomScore {
  std::int32_t living = 0;
  std::int32_t wanted = 0;
};
struct SetChildSubreaper {
  bool value = false;
};
struct SetThpDisable {
  std::uint32_t value = 0;
};

using ProcessOperation =
    std::variant<SetSignalAction, RequeueSignals, SetIntervalTimer, SetPosixTimer, CreatePosixTimer, DeletePosixTimer,
                 SetLimit, ChangeDirectory, ChangeRoot, SetUmask, SetPersonality, SetDumpable, SetOomScore,
                 SetChildSubreaper, SetThpDisable>;

// "set action of SIGTERM: default", for --dry-run.
std::string text(const ProcessOperation& operation);

struct ProcessPlan {
  std::vector<Difference> differences;
  std::vector<Refusal> refusals;
  std::vector<ProcessOperation> operations;
  std::vector<std::string> notes;  // what is not taken back, and need not stop a rollback
};

// Running down is no difference: a timer that is armed on both sides is set back to the time that was left, and only
// shown as a difference where it was armed anew (more time left than it had, by over a second) or with another
// interval. `living_threads`: the threads that live now, where known: a timer whose target is not among them is made
// again. `requeue`: signals may come between now and the commit (children are ended); those pending then are replaced
// by the wanted ones. Parents, groups, sessions and children are the tree's (diff/tree.h).
ProcessPlan plan_process(const model::Process& wanted, const model::Process& living,
                         std::span<const model::Tid> living_threads = {}, bool requeue = false);

// "SIGTERM", "SIGRTMIN+3", "signal 32".
std::string signal_name(int signal);
// "RLIMIT_NOFILE".
std::string limit_name(int resource);

}  // namespace relive::diff
