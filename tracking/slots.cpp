#include "tracking/slots.h"

#include <algorithm>

namespace relive::tracking {

void Slots::grow(std::uint64_t size) {
  if (size <= users_.size()) return;
  const SlotRun added{users_.size(), size - users_.size()};
  users_.resize(size, 0);
  put_back({added});
}

std::vector<SlotRun> Slots::take(std::uint64_t pages) {
  std::vector<SlotRun> taken;
  std::size_t emptied = 0;
  free_pages_ -= pages;
  for (SlotRun& run : free_) {
    if (pages == 0) break;
    const std::uint64_t part = std::min(pages, run.pages);
    taken.push_back({run.slot, part});
    run.slot += part;
    run.pages -= part;
    pages -= part;
    if (run.pages == 0) ++emptied;
  }
  free_.erase(free_.begin(), free_.begin() + static_cast<std::ptrdiff_t>(emptied));
  return taken;
}

void Slots::retain(SlotRun run) {
  for (Slot slot = run.slot; slot < run.slot + run.pages; ++slot) ++users_[slot];
}

std::vector<SlotRun> Slots::release(std::span<const SlotRun> runs) {
  std::vector<SlotRun> freed;
  for (const SlotRun& run : runs) {
    for (Slot slot = run.slot; slot < run.slot + run.pages; ++slot) {
      if (users_[slot] > 0) --users_[slot];
      if (users_[slot] > 0) continue;
      if (!freed.empty() && freed.back().slot + freed.back().pages == slot)
        ++freed.back().pages;
      else
        freed.push_back({slot, 1});
    }
  }
  std::ranges::sort(freed, {}, &SlotRun::slot);
  put_back(freed);
  return freed;
}

void Slots::put_back(const std::vector<SlotRun>& runs) {
  if (runs.empty()) return;
  for (const SlotRun& run : runs) free_pages_ += run.pages;
  std::vector<SlotRun> merged;
  merged.reserve(free_.size() + runs.size());
  std::ranges::merge(free_, runs, std::back_inserter(merged), {}, &SlotRun::slot, &SlotRun::slot);
  free_.clear();
  for (const SlotRun& run : merged) {
    if (!free_.empty() && free_.back().slot + free_.back().pages == run.slot)
      free_.back().pages += run.pages;
    else
      free_.push_back(run);
  }
}

}  // namespace relive::tracking
