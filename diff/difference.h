// Differences, as people and programs are shown them, and refusals.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace relive::diff {

enum class Family : std::uint8_t { thread, mapping, page, descriptor, signal, timer, process, file };
std::string_view family_name(Family family);

enum class Sign : std::uint8_t { added, removed, changed };  // as seen from the snapshot: added = since the snapshot

struct Difference {
  Family family = Family::process;
  Sign sign = Sign::changed;
  std::string object;       // "descriptor 7 (/var/log/x.log)"
  std::string text;         // "position 10 -> 20"
  std::uint64_t pages = 0;  // Family::page: how many
  bool operator==(const Difference&) const = default;
};

// Something that cannot be put back: the object by name, why, and what to do about it.
struct Refusal {
  std::string object;
  std::string reason;
  std::string hint;
  bool operator==(const Refusal&) const = default;
};

}  // namespace relive::diff
