// The pure part of tracking against a naive model: one entry a page.
// A failure prints its seed; RELIVE_SEED=N repeats it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>
#include <set>

#include "tracking/page_map.h"

namespace relive::tracking {
namespace {

constexpr std::uint64_t kSpace = 64;  // pages of the toy address space

using NaiveSet = std::set<std::uint64_t>;        // page numbers
using NaiveMap = std::map<std::uint64_t, Slot>;  // page number -> slot

constexpr std::uint64_t at(std::uint64_t page) { return (page + 16) * kPageSize; }

class PageMapProperties : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    const char* asked = std::getenv("RELIVE_SEED");
    seed_ = asked != nullptr ? static_cast<unsigned>(std::strtoul(asked, nullptr, 10)) : std::random_device{}();
    random_.seed(seed_ + static_cast<unsigned>(GetParam()) * 7919U);
  }
  [[nodiscard]] std::string story() const { return "RELIVE_SEED=" + std::to_string(seed_); }
  std::uint64_t below(std::uint64_t limit) {
    return std::uniform_int_distribution<std::uint64_t>(0, limit - 1)(random_);
  }

  NaiveSet random_set() {
    NaiveSet out;
    for (std::uint64_t strokes = below(8); strokes > 0; --strokes) {
      const std::uint64_t begin = below(kSpace);
      const std::uint64_t end = std::min(kSpace, begin + 1 + below(10));
      for (std::uint64_t page = begin; page < end; ++page) out.insert(page);
    }
    return out;
  }
  NaiveMap random_map() {
    NaiveMap out;
    for (std::uint64_t strokes = below(8); strokes > 0; --strokes) {
      const std::uint64_t begin = below(kSpace);
      const std::uint64_t end = std::min(kSpace, begin + 1 + below(10));
      // Few slots, and aligned with the addresses now and then, so that two maps agree in places.
      const Slot slot = below(2) == 0 ? begin : below(4);
      for (std::uint64_t page = begin; page < end; ++page) out[page] = slot + (page - begin);
    }
    return out;
  }

  std::mt19937 random_;
  unsigned seed_ = 0;
};

// In any way of cutting that is allowed as an input: neighbours may touch.
Ranges pieces(const NaiveSet& pages, bool merged) {
  Ranges out;
  for (const std::uint64_t page : pages) {
    if (merged && !out.empty() && out.back().end == at(page))
      out.back().end += kPageSize;
    else
      out.push_back({at(page), at(page + 1)});
  }
  return out;
}

std::vector<PageRun> single_runs(const NaiveMap& map) {
  std::vector<PageRun> out;
  for (const auto& [page, slot] : map) out.push_back({at(page), 1, slot});
  return out;
}

PageMap made_of(const NaiveMap& map) {
  PageMap out;
  out.replace({0, at(kSpace + 16)}, single_runs(map));
  return out;
}

NaiveMap naive(const PageMap& map) {
  NaiveMap out;
  for (const PageRun& run : map.runs())
    for (std::uint64_t page = 0; page < run.pages; ++page) out[run.address / kPageSize - 16 + page] = run.slot + page;
  return out;
}

TEST_P(PageMapProperties, SetsAreTheNaiveOnes) {
  SCOPED_TRACE(story());
  const NaiveSet a = random_set();
  const NaiveSet b = random_set();
  NaiveSet both;
  NaiveSet only_a;
  NaiveSet any = a;
  any.insert(b.begin(), b.end());
  for (const std::uint64_t page : a) (b.contains(page) ? both : only_a).insert(page);
  for (const bool merged : {true, false}) {
    EXPECT_EQ(unite(pieces(a, merged), pieces(b, true)), pieces(any, true));
    EXPECT_EQ(intersect(pieces(a, merged), pieces(b, true)), pieces(both, true));
    EXPECT_EQ(subtract(pieces(a, true), pieces(b, merged)), pieces(only_a, true));
  }
  std::vector<AddressRange> heap = pieces(any, false);
  heap.insert(heap.end(), {{at(3), at(3)}, {at(9), at(2)}});
  std::ranges::shuffle(heap, random_);
  EXPECT_EQ(normalize(heap), pieces(any, true));
  EXPECT_EQ(count_pages(pieces(any, false)), any.size());
}

TEST_P(PageMapProperties, ReplaceAndFindAreTheNaiveOnes) {
  SCOPED_TRACE(story());
  NaiveMap expected = random_map();
  PageMap map = made_of(expected);
  for (int step = 0; step < 4; ++step) {
    const NaiveSet replaced = random_set();
    NaiveMap runs;
    for (const auto& [page, slot] : random_map())
      if (replaced.contains(page)) runs[page] = slot;
    PageMap inside;
    inside.replace({0, at(kSpace)}, map.within(pieces(replaced, step % 2 == 0)));
    NaiveMap expected_inside;
    for (const auto& [page, slot] : naive(map))
      if (replaced.contains(page)) expected_inside[page] = slot;
    ASSERT_EQ(naive(inside), expected_inside);
    for (const std::uint64_t page : replaced) expected.erase(page);
    expected.insert(runs.begin(), runs.end());
    map.replace(pieces(replaced, step % 2 == 0), single_runs(runs));
    ASSERT_EQ(naive(map), expected);
    ASSERT_EQ(map, made_of(expected)) << "equal contents, unequal maps: not in normal form";
    ASSERT_EQ(map.pages(), expected.size());
    for (std::uint64_t page = 0; page < kSpace; ++page) {
      const auto found = map.find(at(page) + below(kPageSize));
      ASSERT_EQ(found.has_value(), expected.contains(page));
      if (found) {
        ASSERT_EQ(*found, expected[page]);
      }
    }
  }
}

TEST_P(PageMapProperties, APlanDoesWhatIsNeededAndNoMore) {
  SCOPED_TRACE(story());
  const NaiveMap wanted = random_map();
  const NaiveMap current = random_map();
  const NaiveSet changed = random_set();
  const NaiveSet made = random_set();
  NaiveSet kept;
  for (const std::uint64_t page : random_set())
    if (!made.contains(page)) kept.insert(page);

  const PagePlan plan =
      plan_pages(made_of(wanted), made_of(current), pieces(changed, false), pieces(kept, true), pieces(made, true));

  NaiveMap copies;
  NaiveSet drops;
  for (std::uint64_t page = 0; page < kSpace; ++page) {
    const bool want = wanted.contains(page);
    const bool have = current.contains(page);
    if (made.contains(page) && want) copies[page] = wanted.at(page);
    if (!kept.contains(page)) continue;
    if (want && (changed.contains(page) || !have || current.at(page) != wanted.at(page)))
      copies[page] = wanted.at(page);
    if (!want && (changed.contains(page) || have)) drops.insert(page);
  }
  NaiveMap planned;
  for (std::size_t i = 0; i < plan.copies.size(); ++i) {
    const PagePlan::Copy& copy = plan.copies[i];
    if (i > 0) {
      ASSERT_LE(plan.copies[i - 1].to + plan.copies[i - 1].pages * kPageSize, copy.to);
    }
    for (std::uint64_t page = 0; page < copy.pages; ++page) planned[copy.to / kPageSize - 16 + page] = copy.from + page;
  }
  EXPECT_EQ(planned, copies);
  EXPECT_EQ(plan.drops, pieces(drops, true));
  EXPECT_EQ(plan.pages(), copies.size() + drops.size());
  NaiveSet written = drops;
  for (const auto& [page, slot] : copies) written.insert(page);
  EXPECT_EQ(plan.touched(), pieces(written, true));
}

INSTANTIATE_TEST_SUITE_P(Random, PageMapProperties, ::testing::Range(0, 200));

TEST(PageMapTest, NeighboursThatContinueEachOtherAreOneRun) {
  PageMap map;
  map.replace({at(0), at(2)}, std::vector<PageRun>{{at(0), 2, 7}});
  map.replace({at(2), at(4)}, std::vector<PageRun>{{at(2), 2, 9}});
  ASSERT_EQ(map.runs().size(), 1U);
  EXPECT_EQ(map.runs()[0], (PageRun{at(0), 4, 7}));
  map.replace({at(1), at(2)}, {});
  EXPECT_EQ(map.runs().size(), 2U);
  EXPECT_EQ(map.ranges(), (Ranges{{at(0), at(1)}, {at(2), at(4)}}));
}

TEST(PageMapTest, NothingChangedIsNoPlan) {
  PageMap map;
  map.replace({at(0), at(1000)}, std::vector<PageRun>{{at(0), 1000, 0}});
  const PagePlan plan = plan_pages(map, map, {}, {{at(0), at(2000)}}, {});
  EXPECT_EQ(plan.pages(), 0U);
  EXPECT_TRUE(plan.copies.empty());
}

}  // namespace
}  // namespace relive::tracking
