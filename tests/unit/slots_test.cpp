// Slots of the page store against a naive model. A failure prints its seed; RELIVE_SEED=N repeats it.
#include "tracking/slots.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>

namespace relive::tracking {
namespace {

TEST(SlotsTest, TakesLowestFirstAndReusesWhatIsReleased) {
  Slots slots;
  slots.grow(10);
  EXPECT_EQ(slots.take(4), (std::vector<SlotRun>{{0, 4}}));
  slots.retain({0, 4});
  EXPECT_EQ(slots.release(std::vector<SlotRun>{{1, 2}}), (std::vector<SlotRun>{{1, 2}}));
  EXPECT_EQ(slots.take(3), (std::vector<SlotRun>{{1, 2}, {4, 1}}));
  EXPECT_EQ(slots.used(), 5U);
}

TEST(SlotsTest, AnyOrderOfUsesIsTheNaiveOne) {
  const char* asked = std::getenv("RELIVE_SEED");
  const unsigned seed =
      asked != nullptr ? static_cast<unsigned>(std::strtoul(asked, nullptr, 10)) : std::random_device{}();
  SCOPED_TRACE("RELIVE_SEED=" + std::to_string(seed));
  std::mt19937 random(seed);
  const auto below = [&](std::uint64_t limit) {
    return std::uniform_int_distribution<std::uint64_t>(0, limit - 1)(random);
  };
  Slots slots;
  slots.grow(64);
  std::map<Slot, int> users;  // of the slots in use
  std::vector<SlotRun> held;  // one entry a use
  for (int step = 0; step < 2000; ++step) {
    if (below(2) == 0) {
      const std::uint64_t pages = 1 + below(12);
      if (slots.free_pages() < pages) slots.grow(slots.size() + 32);
      std::uint64_t got = 0;
      for (const SlotRun& run : slots.take(pages)) {
        for (Slot slot = run.slot; slot < run.slot + run.pages; ++slot) ASSERT_FALSE(users.contains(slot));
        for (std::uint64_t uses = 1 + below(3); uses > 0; --uses) {
          slots.retain(run);
          held.push_back(run);
          for (Slot slot = run.slot; slot < run.slot + run.pages; ++slot) ++users[slot];
        }
        got += run.pages;
      }
      ASSERT_EQ(got, pages);
    } else if (!held.empty()) {
      const std::size_t which = below(held.size());
      const SlotRun run = held[which];
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
      std::uint64_t freed = 0;
      for (const SlotRun& gone : slots.release(std::vector<SlotRun>{run})) freed += gone.pages;
      std::uint64_t expected = 0;
      for (Slot slot = run.slot; slot < run.slot + run.pages; ++slot)
        if (--users[slot] == 0) expected += users.erase(slot);
      ASSERT_EQ(freed, expected);
    }
    ASSERT_EQ(slots.used(), users.size());
    ASSERT_EQ(slots.used() + slots.free_pages(), slots.size());
  }
}

}  // namespace
}  // namespace relive::tracking
