// Which slots of the page store are in use, and by how many maps. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tracking/page_map.h"

namespace relive::tracking {

struct SlotRun {
  Slot slot = 0;
  std::uint64_t pages = 0;
  bool operator==(const SlotRun&) const = default;
};

class Slots {
 public:
  // Slots from 0 to size() exist; the highest ones come last when slots are taken.
  [[nodiscard]] std::uint64_t size() const { return users_.size(); }
  [[nodiscard]] std::uint64_t used() const { return size() - free_pages_; }
  [[nodiscard]] std::uint64_t free_pages() const { return free_pages_; }
  // Adds free slots at the end.
  void grow(std::uint64_t size);

  // Takes `pages` free slots, lowest first; they have no user yet. REQUIRES: free_pages() >= pages.
  std::vector<SlotRun> take(std::uint64_t pages);
  void retain(SlotRun run);
  // Takes one use away from each slot. Returns the slots that are free now, ascending. A slot without a user becomes
  // free at once. REQUIRES: no slot is in `runs` twice.
  std::vector<SlotRun> release(std::span<const SlotRun> runs);

 private:
  std::vector<std::uint32_t> users_;  // a slot
  std::vector<SlotRun> free_;         // ascending, disjoint, neighbours merged
  std::uint64_t free_pages_ = 0;
  void put_back(const std::vector<SlotRun>& runs);
};

}  // namespace relive::tracking
