#include "base/log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <string>

namespace relive {

namespace {
void write_line(const std::string& line) {
  [[maybe_unused]] const auto ignored = ::write(STDERR_FILENO, line.data(), line.size());
}
}  // namespace

void log_debug(std::string_view line) {
  static const bool wanted = [] {
    const char* level = std::getenv("RELIVE_LOG");
    return level != nullptr && std::string_view(level) == "debug";
  }();
  if (!wanted) return;
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  write_line(fmt::format("relive: [{}.{:06}] {}\n", now.tv_sec, now.tv_nsec / 1000, line));
}

void log_warning(std::string_view line) { write_line(fmt::format("relive: warning: {}\n", line)); }

}  // namespace relive
