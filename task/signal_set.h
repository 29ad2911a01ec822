// Sets of signals in the text of /proc/PID/status.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "model/ids.h"

namespace relive::task {

// "SigPnd", "ShdPnd", "SigBlk": bit N-1 is signal N. 0 if the line is not there.
std::uint64_t signal_set(std::string_view status, std::string_view name);

// Is `signal` pending for the task as a whole?
Result<bool> is_pending(model::Pid pid, int signal);

}  // namespace relive::task
