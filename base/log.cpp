#include "base/log.h"

#include <cstdlib>
#include <string>

#include <unistd.h>

namespace relive {

namespace {
void write_line(std::string_view level, std::string_view line) {
  std::string text = "relive: ";
  text.append(level).append(line).append("\n");
  [[maybe_unused]] const auto ignored = ::write(STDERR_FILENO, text.data(), text.size());
}
}  // namespace

void log_debug(std::string_view line) {
  static const bool wanted = [] {
    const char* level = std::getenv("RELIVE_LOG");
    return level != nullptr && std::string_view(level) == "debug";
  }();
  if (wanted) write_line("", line);
}

void log_warning(std::string_view line) { write_line("warning: ", line); }

}  // namespace relive
