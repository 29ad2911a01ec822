// Numbers in the text of /proc/PID/stat (proc_pid_stat(5)).
#pragma once

#include <cstdint>
#include <string_view>

#include <fmt/format.h>

#include "base/number.h"
#include "base/result.h"
#include "task/procfs.h"

namespace relive::task {

// Field `number`, counted from 1. ErrorKind::system where it is not there, or is no number.
template <class T>
Result<T> stat_number(std::string_view stat, int number) {
  const std::string_view text = RELIVE_TRY(stat_field(stat, number));
  const auto value = parse_number<T>(text);
  if (!value) return fail(ErrorKind::system, fmt::format("/proc/PID/stat: field {} is '{}'", number, text));
  return *value;
}

// When the process was started, in clock ticks since the machine was: tells it from a later one with its id.
inline Result<std::uint64_t> start_time(std::string_view stat) { return stat_number<std::uint64_t>(stat, 22); }

}  // namespace relive::task
