// Tasks at rest: those that have not run since relive last let them go are as they were then.
//
// Each thread sleeps in the system call in which it was let go, so a way back to the same snapshot need not look at
// what only the task itself can change: memory, mappings, numbers of descriptors, signal actions, directories, threads.
// What others can change is looked at all the same: pending signals, limits, scheduling, and every open file.
//
// What shows it, for each thread: it stands in the very call with every register the same; it has gone to sleep once
// since (voluntary_ctxt_switches of /proc/PID/task/TID/status, proc_pid_status(5): once for that sleep, once for our
// stop); and no page of the task's own memory was written but for the one that the kernel writes itself whenever a
// thread returns to user mode (rseq(2)), and that one is the same in all other bytes. So the case that is not seen is a
// thread that came back from its call at once, changed something by system calls alone, wrote to no page of memory,
// pushed no return address, and made the first call again with all registers as before: no compiled program does that
// (docs/decisions/0005-tasks-at-rest.md).
#pragma once

#include <sys/user.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/ids.h"
#include "model/task.h"
#include "task/frozen_task.h"
#include "tracking/page_map.h"

namespace relive::rollback {

struct Member;

// How a task was let go. `snapshot`: what it was like (Snapshot::number).
struct Rest {
  struct Thread {
    model::Tid tid;
    std::uint64_t sleeps = 0;
  };
  std::uint64_t snapshot = 0;
  std::vector<Thread> threads;
  std::string limits;  // the text of /proc/PID/limits
};

// Notes in `member` how its task stands, which is about to be let go as `snapshot` has it. Where that cannot be read
// the task will not be taken to be at rest.
void note_rest(Member& member, task::FrozenTask& task, std::uint64_t snapshot);

// Has the task, just frozen, been at rest since note_rest() for this snapshot? `wanted` and `pages` are the snapshot's.
// If so its rest goes on. Changes nothing in the task, and needs no parasite. "No" whenever anything cannot be told.
bool is_at_rest(Member& member, task::FrozenTask& task, std::uint64_t snapshot, const model::Task& wanted,
                const tracking::PageMap& pages);

// Interval timers run on while a task sleeps, and are to have as much left as the snapshot has. REQUIRES: the task is
// at rest; it stays so. A short visit of its own: nothing is left of it should the keeper die.
[[nodiscard]] bool has_timers(const model::Process& wanted);
Result<void> put_timers_back(Member& member, task::FrozenTask& task, const model::Process& wanted);

// Can a task of this kind be told to be at rest at all? No: one with POSIX timers, and one that puts back shared
// memory, which others may have written.
[[nodiscard]] bool can_rest(const model::Task& wanted, const tracking::Ranges& not_its_own);

}  // namespace relive::rollback
