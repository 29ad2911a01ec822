// Threads of a frozen task, read into the model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "model/thread.h"
#include "parasite/session.h"

namespace relive::capture {

// How much to ask. `outside` leaves out what only the thread itself can tell (Thread::inside_known is false then);
// running the parasite in each of 100 threads takes milliseconds.
enum class Depth : std::uint8_t { outside, full };

// Every thread of the visited task, in the order of FrozenTask::threads().
//
// ErrorKind::refused, by name, for a thread that sleeps in restart_syscall(2) and whose own call cannot be told.
Result<std::vector<model::Thread>> read_threads(parasite::Visit& visit, Depth depth);

// scheduling, affinity and io_priority of `thread`, by its tid.
Result<void> read_scheduling(model::Thread& thread);

// The number of the system call that restart_syscall(2) stands for: only nanosleep, clock_nanosleep, poll and futex
// leave a restart block (Linux, callers of set_restart_fn()). For calls that no visit of ours broke off. Told by the
// instructions before the `syscall` instruction at which the thread stands (`mov $NUMBER, %eax`), newest first. Pure.
// Returns -1 if it cannot be told.
int restarted_call(std::span<const std::byte> code_before);

}  // namespace relive::capture
