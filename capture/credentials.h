// Credentials of a thread, from the text of its status file.
#pragma once

#include <string_view>

#include "base/result.h"
#include "model/thread.h"

namespace relive::capture {

// `status`: the text of /proc/PID/task/TID/status (proc_pid_status(5)). A kernel without "Seccomp_filters:" (before
// 5.9) or without seccomp at all reads as 0. Any other missing or malformed line is an error that names it.
Result<model::Credentials> parse_credentials(std::string_view status);

}  // namespace relive::capture
