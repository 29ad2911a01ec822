// Which stored version of which page: the history of pages.
//
// A PageMap says for every page that had contents of its own where in the page store these contents are. A page that is
// not in it is what its mapping's backing gives: zeros, or the file. A snapshot has one PageMap; the map of what is in
// place now ("current") is another. Pure: no task is needed to test it (tests/unit/page_map_test.cpp).
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
  [[nodiscard]] AddressRange range() const { return {address, address + pages * kPageSize}; }
  bool operator==(const PageRun&) const = default;
};

// Ascending, disjoint, none empty, page-aligned. What the functions below return has no two neighbours that touch.
using Ranges = std::vector<AddressRange>;

class PageMap {
 public:
  [[nodiscard]] std::span<const PageRun> runs() const { return runs_; }
  [[nodiscard]] std::uint64_t pages() const;
  [[nodiscard]] std::optional<Slot> find(std::uint64_t address) const;
  // The addresses that the map knows.
  [[nodiscard]] Ranges ranges() const;
  // What the map says about the addresses in `ranges`.
  [[nodiscard]] std::vector<PageRun> within(const Ranges& ranges) const;
  // Replaces what the map says about `range` by `runs`. REQUIRES: `runs` ascending, disjoint, all inside `range`.
  void replace(AddressRange range, std::span<const PageRun> runs);
  // The same for many ranges in one pass: what the map says about all of `ranges` is replaced by `runs`.
  // REQUIRES: `runs` ascending, disjoint, each inside one of `ranges`.
  void replace(const Ranges& ranges, std::span<const PageRun> runs);
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
  std::vector<Copy> copies;  // ascending, disjoint; neighbours that continue each other are one
  Ranges drops;              // back to the backing's contents: MADV_DONTNEED (zero-filled where locked or shared)
  [[nodiscard]] std::uint64_t pages() const;  // copied and dropped
  // Everything the plan writes; with what changed() reported it is what the tracker has to arm again.
  [[nodiscard]] Ranges touched() const;
};

// `kept`: ranges whose mapping stays in place; `made`: ranges whose mapping is made anew (they start as their backing).
// `changed`: pages of the living memory that may differ from `current`. Pages outside `kept` and `made` are not
// planned. REQUIRES: `kept` and `made` are disjoint. Costs O(runs), not O(pages).
PagePlan plan_pages(const PageMap& wanted, const PageMap& current, const Ranges& changed, const Ranges& kept,
                    const Ranges& made);

Ranges unite(const Ranges& a, const Ranges& b);
Ranges intersect(const Ranges& a, const Ranges& b);
Ranges subtract(const Ranges& a, const Ranges& b);
// Sorts and merges ranges that come in any order, empty and overlapping ones too.
Ranges normalize(std::vector<AddressRange> ranges);
std::uint64_t count_pages(const Ranges& ranges);

}  // namespace relive::tracking
