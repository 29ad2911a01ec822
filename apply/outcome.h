// The answer to a rollback is a fate, not a boolean.
#pragma once

#include <cstdint>
#include <string_view>

namespace relive::apply {

enum class Fate : std::uint8_t {
  done,       // the task is at the snapshot
  untouched,  // refused or undone: the task is as before the call
  stopped,    // commit was broken off by the kernel; the task is left stopped
  killed,     // the same, and --on-failure=kill was given
};

constexpr std::string_view fate_name(Fate fate) {
  switch (fate) {
    case Fate::done:
      return "done";
    case Fate::untouched:
      return "untouched";
    case Fate::stopped:
      return "stopped";
    case Fate::killed:
      return "killed";
  }
  return "?";
}

}  // namespace relive::apply
