// Threads of a frozen task, read into the model.
#pragma once

#include <vector>

#include "base/result.h"
#include "model/thread.h"
#include "parasite/session.h"

namespace relive::capture {

// Every thread of the visited task, in the order of FrozenTask::threads(). What only the thread itself can tell (alternate
// stack, clear_child_tid, parent-death signal, timer slack) is asked by running the parasite in it.
//
// ErrorKind::refused, by name, for a thread that sleeps in restart_syscall(2) and whose own call cannot be told.
Result<std::vector<model::Thread>> read_threads(parasite::Visit& visit);

// The number of the system call that restart_syscall(2) stands for: only nanosleep, clock_nanosleep, poll and futex leave
// a restart block (Linux, callers of set_restart_fn()). Told by the instructions before the `syscall` instruction at which
// the thread stands (`mov $NUMBER, %eax`), newest first. Pure. Returns -1 if it cannot be told.
int restarted_call(std::span<const std::byte> code_before);

}  // namespace relive::capture
