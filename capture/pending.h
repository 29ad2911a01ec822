// Signals that are queued and not yet delivered, read without taking any.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "model/signals.h"

namespace relive::capture {

enum class QueueOf : std::uint8_t { thread, task };

// The queue of a thread, or of the task it belongs to, in its order (ptrace(2), PTRACE_PEEKSIGINFO, Linux 3.10).
// `pending`: the set that the thread's status file shows for that queue (SigPnd, ShdPnd), 0 if unknown: a signal of it
// may have no entry in the queue, where the user's queue was full (RLIMIT_SIGPENDING). It comes as the kernel delivers
// it, as if kill(2) had been called by nobody. REQUIRES: the thread is stopped under our ptrace.
Result<std::vector<model::QueuedSignal>> read_pending(model::Tid stopped_thread, QueueOf queue, std::uint64_t pending);

}  // namespace relive::capture
