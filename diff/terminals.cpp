#include "diff/terminals.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

namespace relive::diff {

namespace {

using model::Terminal;

// Where the parts of struct termios2 begin.
struct Part {
  std::string_view name;
  std::size_t begin;
  std::size_t end;
};
constexpr std::array<Part, 7> kParts{{{"input modes", 0, 4},
                                      {"output modes", 4, 8},
                                      {"control modes", 8, 12},
                                      {"local modes", 12, 16},
                                      {"line", 16, 17},
                                      {"control characters", 17, 36},
                                      {"speed", 36, 44}}};

std::string value_of(const model::TerminalModes& modes, const Part& part) {
  std::uint32_t value = 0;
  std::memcpy(&value, modes.data() + part.begin, std::min(sizeof value, part.end - part.begin));
  return fmt::format("{:#o}", value);
}

std::string window_text(const model::WindowSize& window) { return fmt::format("{}x{}", window.columns, window.rows); }

}  // namespace

bool can_become(const Terminal& wanted, const Terminal& living) {
  return wanted.master == living.master && (!wanted.hung_up || living.hung_up);
}

std::vector<std::string> changes(const Terminal& wanted, const Terminal& living) {
  if (wanted.hung_up) return {};
  if (living.hung_up) return {"hung up since"};
  std::vector<std::string> out;
  const auto flag = [&](std::string_view what, bool before, bool now) {
    if (before != now) out.push_back(fmt::format("{} {} -> {}", what, before ? "on" : "off", now ? "on" : "off"));
  };
  for (const Part& part : kParts) {
    if (!modes_go_back(wanted)) break;
    const auto begin = static_cast<std::ptrdiff_t>(part.begin);
    const auto end = static_cast<std::ptrdiff_t>(part.end);
    if (std::equal(wanted.modes.begin() + begin, wanted.modes.begin() + end, living.modes.begin() + begin)) continue;
    out.push_back(part.end - part.begin == 4 ? fmt::format("{} {} -> {}", part.name, value_of(wanted.modes, part),
                                                           value_of(living.modes, part))
                                             : fmt::format("{} changed", part.name));
  }
  if (window_goes_back(wanted) && wanted.window != living.window) {
    out.push_back(fmt::format("window {} -> {}", window_text(wanted.window), window_text(living.window)));
  }
  flag("exclusive mode", wanted.exclusive, living.exclusive);
  flag("packet mode", wanted.packets, living.packets);
  flag("lock", wanted.locked, living.locked);
  if (wanted.foreground && !living.foreground && living.controlling)
    out.emplace_back("the task is no longer in the foreground");
  else if (wanted.foreground && living.foreground && wanted.front != living.front)
    out.push_back(fmt::format("process group in the foreground {} -> {}", wanted.front, living.front));
  if (wanted.inside && living.unread != 0) out.push_back(fmt::format("{} unread bytes since", living.unread));
  return out;
}

CannotMake cannot_make(const Terminal& wanted) {
  if (wanted.master)
    return {.reason = "the other end of a pseudo-terminal whose master was closed has hung up for good", .hint = {}};
  if (wanted.hung_up) return {.reason = "a terminal that has hung up cannot be opened again", .hint = {}};
  return {};
}

CannotMake cannot_put_right(const Terminal& wanted, const Terminal& living) {
  if (wanted.hung_up || living.hung_up) return {};
  if (wanted.discipline != living.discipline) {
    return {.reason = fmt::format("its line discipline was changed since ({} -> {}), and a change loses what is in it",
                                  wanted.discipline, living.discipline),
            .hint = "set it back with ldattach(8), or take a new snapshot"};
  }
  if (wanted.controlling && !living.controlling) {
    return {.reason = "the task has given up its controlling terminal since", .hint = "take a new snapshot"};
  }
  return {};
}

bool always_put_right(const Terminal& wanted) { return wanted.inside && wanted.packets; }

}  // namespace relive::diff
