// Pages to dirty: the same in every run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <unordered_set>
#include <vector>

namespace relive::bench {

// min(count, pages) different numbers below `pages`, scattered by `seed`. Takes memory for `count` only, so that a
// victim dirties little more than what it was told to.
inline std::vector<std::uint64_t> scattered(std::uint64_t pages, std::uint64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> chosen;
  if (count >= pages) {
    for (std::uint64_t page = 0; page < pages; ++page) chosen.push_back(page);
    return chosen;
  }
  std::unordered_set<std::uint64_t> seen;
  while (chosen.size() < count) {
    const auto page = random() % pages;
    if (seen.insert(page).second) chosen.push_back(page);
  }
  return chosen;
}

}  // namespace relive::bench
