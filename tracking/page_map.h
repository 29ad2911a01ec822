// Which stored version of which page: the history of pages.
//
// A PageMap says for every page that had contents of its own where in the page store these contents are. A page that is
// not in it is what its mapping's backing gives: zeros, or the file. A snapshot has one PageMap; the map of what is in
// place now ("current") is another. Pure: no task is needed to test it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/page_range.h"

namespace relive::tracking {

using Slot = std::uint64_t;  // index of a page in the store

struct PageRun {
  std::uint64_t address = 0;
  std::uint64_t pages = 0;
  Slot slot = 0;  // of the first page; the others follow
  bool operator==(const PageRun&) const = default;
};

using Ranges = std::vector<AddressRange>;  // ascending, disjoint, page-aligned

class PageMap {
 public:
  [[nodiscard]] std::span<const PageRun> runs() const { return runs_; }
  [[nodiscard]] std::uint64_t pages() const;
  [[nodiscard]] std::optional<Slot> find(std::uint64_t address) const;
  // Replaces what the map says about `range` by `runs` (ascending, all inside `range`).
  void replace(AddressRange range, std::span<const PageRun> runs);
  bool operator==(const PageMap&) const = default;

 private:
  std::vector<PageRun> runs_;  // ascending, disjoint; neighbours that continue each other are one
};

// What must be done to memory so that it reads as `wanted`.
struct PagePlan {
  struct Copy {
    std::uint64_t to = 0;
    Slot from = 0;
    std::uint64_t pages = 0;
    bool operator==(const Copy&) const = default;
  };
  std::vector<Copy> copies;  // ascending
  Ranges drops;              // back to the backing's contents: MADV_DONTNEED (zero-filled where locked or shared)
  [[nodiscard]] std::uint64_t pages() const;
};

// `kept`: ranges whose mapping stays in place; `made`: ranges whose mapping is made anew (they start as their backing).
// `changed`: pages of the living memory that may differ from `current`. Costs O(runs), not O(pages).
PagePlan plan_pages(const PageMap& wanted, const PageMap& current, const Ranges& changed, const Ranges& kept, const Ranges& made);

Ranges unite(const Ranges& a, const Ranges& b);
Ranges intersect(const Ranges& a, const Ranges& b);
Ranges subtract(const Ranges& a, const Ranges& b);

}  // namespace relive::tracking
