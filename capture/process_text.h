// Parsers for the texts in /proc that tell about a task as a whole. Pure: a test is a string.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/signals.h"

namespace relive::capture {

// /proc/PID/timers (proc_pid_timers(5)): ids, clocks, signals and targets, by id ascending. Times and overruns are not
// in that text: they stay 0. Clocks are the kernel's own numbers: -6 stands for CLOCK_PROCESS_CPUTIME_ID, -2 for the
// CLOCK_THREAD_CPUTIME_ID of the thread that made the timer.
Result<std::vector<model::PosixTimer>> parse_timers(std::string_view timers_text);

}  // namespace relive::capture
