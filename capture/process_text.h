// Parsers for the texts in /proc that tell about a task as a whole. Pure: a test is a string.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/signals.h"

namespace relive::capture {

// A whole word as a number in `base`; nothing if any character is left over or the number does not fit.
template <class T>
std::optional<T> parse_number(std::string_view word, int base = 10) {
  T value{};
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value, base);
  if (error != std::errc{} || end != word.data() + word.size()) return std::nullopt;
  return value;
}

// /proc/PID/timers (proc_pid_timers(5)): ids, clocks, signals and targets, by id ascending. Times and overruns are not
// in that text: they stay 0. Clocks are the kernel's own numbers: -6 stands for CLOCK_PROCESS_CPUTIME_ID, -2 for the
// CLOCK_THREAD_CPUTIME_ID of the thread that made the timer.
Result<std::vector<model::PosixTimer>> parse_timers(std::string_view timers_text);

}  // namespace relive::capture
