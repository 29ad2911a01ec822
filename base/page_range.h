// Half-open ranges of addresses [begin, end), in bytes, page-aligned where they name pages.
#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>

namespace relive {

inline constexpr std::uint64_t kPageSize = 4096;  // relive runs on x86-64 only

constexpr std::uint64_t page_floor(std::uint64_t address) { return address & ~(kPageSize - 1); }
constexpr std::uint64_t page_ceil(std::uint64_t address) { return page_floor(address + kPageSize - 1); }

struct AddressRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  [[nodiscard]] constexpr std::uint64_t size() const { return end - begin; }
  [[nodiscard]] constexpr std::uint64_t pages() const { return size() / kPageSize; }
  [[nodiscard]] constexpr bool empty() const { return end <= begin; }
  [[nodiscard]] constexpr bool contains(std::uint64_t address) const { return address >= begin && address < end; }
  [[nodiscard]] constexpr bool overlaps(const AddressRange& other) const {
    return begin < other.end && other.begin < end;
  }
  [[nodiscard]] constexpr AddressRange intersect(const AddressRange& other) const {
    return {std::max(begin, other.begin), std::max(std::max(begin, other.begin), std::min(end, other.end))};
  }
  constexpr auto operator<=>(const AddressRange&) const = default;
};

}  // namespace relive
