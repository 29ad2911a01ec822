// The steps of a tree plan: one system call each, by whom, and whether it can be taken back. Pure.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "model/forest.h"

namespace relive::diff {

// Who makes a system call, or whom it is about.
struct Actor {
  enum class Kind : std::uint8_t {
    task,     // number: its pid, living or forked by an earlier step
    helper,   // number: 1, 2, ...; a temporary task. Its pid is what the kernel gives, but none of TreePlan::numbers
    relive,   // relive itself
    outside,  // number: the pid of a task outside. Nobody makes it act: the step is to wait until it has
  };
  Kind kind = Kind::task;
  pid_t number = 0;
  constexpr auto operator<=>(const Actor&) const = default;
};
[[nodiscard]] constexpr Actor task_actor(model::Pid pid) { return {.kind = Actor::Kind::task, .number = pid.value}; }
[[nodiscard]] constexpr Actor relive_actor() { return {.kind = Actor::Kind::relive, .number = 0}; }
[[nodiscard]] std::string text(const Actor& actor);  // "12", "helper 1", "relive", "outside 1"

// clone3(2) of a blank task. A task (not a helper) gets its pid with set_tid.
struct ForkBlank {
  Actor child;
  bool sibling = false;  // CLONE_PARENT: the child's parent is the actor's parent, its exit_signal the actor's; the
                         // call's own exit_signal must be 0 then (clone3(2), EINVAL)
  int exit_signal = SIGCHLD;  // what the child will have
  bool memory = false;        // CLONE_VM with the actor, and so on
  bool files = false;
  bool file_system = false;
  bool handlers = false;
  bool suspends = false;   // CLONE_VFORK: the actor's last step; it stands in this call until the child execs or exits
  bool temporary = false;  // no task of the goal: a helper, or one that lends its number to a session or a group
  bool operator==(const ForkBlank&) const = default;
};
// setsid(2).
struct StartSession {
  bool operator==(const StartSession&) const = default;
};
// setpgid(0, group); `before`: the group that the actor leaves.
struct SetGroup {
  model::Pid group;
  model::Pid before;
  bool operator==(const SetGroup&) const = default;
};
// prctl(PR_SET_CHILD_SUBREAPER).
struct SetSubreaper {
  bool value = false;
  bool operator==(const SetSubreaper&) const = default;
};
// The actor ends itself so that its parent will read this status: exit_group(2), or a deadly signal to itself.
struct ExitWith {
  int status = 0;
  std::vector<Actor> orphans{};  // its living children, which get another parent by this
  Actor adopter{};
  bool operator==(const ExitWith&) const = default;
};
// SIGKILL; the actor is relive. Nobody has waited for it yet: the next step but one at most is the Reap of it.
struct Kill {
  Actor target;
  std::vector<Actor> orphans{};
  Actor adopter{};
  bool operator==(const Kill&) const = default;
};
// wait4(pid, __WALL) by the child's parent. Actor outside: the parent is not ours; wait until it has waited.
struct Reap {
  Actor child;
  bool operator==(const Reap&) const = default;
};
using TreeCall = std::variant<ForkBlank, StartSession, SetGroup, SetSubreaper, ExitWith, Kill, Reap>;

struct TreeStep {
  Actor actor;
  TreeCall call;
  // A step of a blank goes with the blank; one of a living task has an inverse call. undo_tree() (diff/tree.h) tells.
  bool undoable = true;
  std::string why;  // "15's session 12 has no leader any more"; may be empty
  bool operator==(const TreeStep&) const = default;
};

// "12: fork 13", "relive: kill 14".
[[nodiscard]] std::string text(const TreeStep& step);

}  // namespace relive::diff
