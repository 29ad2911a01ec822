#include "model/terminals.h"

#include <fmt/format.h>
#include <termios.h>

namespace relive::model {

Words words(const Terminal& terminal) {
  std::string text = terminal.path;
  if (terminal.master) text += fmt::format(", master of {}", terminal.device & 0xff);
  if (terminal.hung_up) text += ", hung up";
  if (terminal.foreground) text += ", in the foreground";
  return {.kind = "terminal", .detail = std::move(text), .phrase = terminal.path};
}

bool modes_go_back(const Terminal& terminal) {
  if (terminal.hung_up || (terminal.master && !terminal.inside)) return false;
  return !terminal.controlling || terminal.foreground;
}

bool window_goes_back(const Terminal& terminal) {
  return !terminal.hung_up && (terminal.master || modes_go_back(terminal));
}

bool reads_lines(const Terminal& terminal) {
  constexpr std::size_t kLocalModes = 12;  // offset in struct termios2; ICANON lies in the lowest byte
  return !terminal.master && !terminal.hung_up && (terminal.modes[kLocalModes] & std::byte{ICANON}) != std::byte{};
}

bool same_terminal(const Terminal& a, const Terminal& b) {
  return a.identity == b.identity && a.master == b.master && (a.hung_up || b.hung_up || a.device == b.device);
}

std::vector<std::string> not_in_a_snapshot(const Terminal& terminal) {
  std::vector<std::string> reasons;
  if (terminal.inside && terminal.unread != 0) {
    reasons.push_back(
        fmt::format("has {} unread bytes; what lies unread in a pseudo-terminal cannot be looked at without taking it",
                    terminal.unread));
  }
  if (terminal.inside && terminal.status_pending)
    reasons.emplace_back("has an unread status byte of packet mode, which cannot be looked at without taking it");
  return reasons;
}

}  // namespace relive::model
