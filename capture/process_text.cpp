#include "capture/process_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>

#include "base/number.h"

namespace relive::capture {

namespace {

std::unexpected<Error> malformed(std::string_view line) {
  return fail(ErrorKind::system, fmt::format("/proc/PID/timers: cannot read line \"{}\"", line));
}

// Cuts the first line off `text`.
std::string_view next_line(std::string_view& text) {
  const auto end = text.find('\n');
  const auto line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

// "signal: 60/00007fff86e452a8"
bool read_signal(std::string_view value, model::PosixTimer& timer) {
  const auto slash = value.find('/');
  if (slash == std::string_view::npos) return false;
  auto pointer = value.substr(slash + 1);
  if (pointer == "(null)") pointer = "0";
  if (pointer.starts_with("0x")) pointer.remove_prefix(2);
  const auto number = parse_number<std::int32_t>(value.substr(0, slash));
  const auto data = parse_number<std::uint64_t>(pointer, 16);
  if (!number || !data) return false;
  timer.signal = *number;
  timer.value = *data;
  return true;
}

// "notify: signal/tid.2634"
bool read_notify(std::string_view value, model::PosixTimer& timer) {
  const auto slash = value.find('/');
  const auto dot = value.find('.');
  if (slash == std::string_view::npos || dot == std::string_view::npos || dot < slash) return false;
  const auto way = value.substr(0, slash);
  const auto whom = value.substr(slash + 1, dot - slash - 1);
  if (way == "signal")
    timer.notify = SIGEV_SIGNAL;
  else if (way == "none")
    timer.notify = SIGEV_NONE;
  else if (way == "thread")
    timer.notify = SIGEV_THREAD;
  else
    return false;
  if (whom != "pid" && whom != "tid") return false;
  const auto target = parse_number<pid_t>(value.substr(dot + 1));
  if (!target) return false;
  if (whom == "tid") {
    timer.notify |= SIGEV_THREAD_ID;
    timer.target = model::Tid{*target};
  }
  return true;
}

}  // namespace

Result<std::vector<model::PosixTimer>> parse_timers(std::string_view text) {
  std::vector<model::PosixTimer> timers;
  int fields = 4;  // of the timer being read: ID, signal, notify, ClockID
  while (!text.empty()) {
    const auto line = next_line(text);
    if (line.empty()) continue;
    const auto colon = line.find(": ");
    if (colon == std::string_view::npos) return malformed(line);
    const auto name = line.substr(0, colon);
    const auto value = line.substr(colon + 2);
    if (name == "ID") {
      const auto id = parse_number<std::int32_t>(value);
      if (!id || fields != 4) return malformed(line);
      timers.emplace_back().id = *id;
      fields = 1;
      continue;
    }
    if (timers.empty()) return malformed(line);
    auto& timer = timers.back();
    if (name == "signal" && fields == 1) {
      if (!read_signal(value, timer)) return malformed(line);
      ++fields;
    } else if (name == "notify" && fields == 2) {
      if (!read_notify(value, timer)) return malformed(line);
      ++fields;
    } else if (name == "ClockID" && fields == 3) {
      const auto clock = parse_number<std::int32_t>(value);
      if (!clock) return malformed(line);
      timer.clock = *clock;
      ++fields;
    } else if (fields != 4 || name == "signal" || name == "notify" ||
               name == "ClockID") {  // behind these, newer kernels may add
      return malformed(line);
    }
  }
  if (fields != 4) return malformed("(end of text)");
  std::ranges::sort(timers, {}, &model::PosixTimer::id);
  return timers;
}

}  // namespace relive::capture
