// Named stretches of time, one after the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace relive::rollback {

// One named stretch of a rollback, for `rollback --json` and bench.
struct Stage {
  std::string name;
  std::uint64_t us = 0;
};

class Stopwatch {
 public:
  Stopwatch() : last_(now_ns()) {}
  // The stretch since the last call (or construction) is called `name`; stretches of one name are added up.
  void lap(std::string name) {
    const std::uint64_t now = now_ns();
    const std::uint64_t us = (now - last_) / 1000;
    last_ = now;
    const auto known = std::ranges::find(stages_, name, &Stage::name);
    if (known != stages_.end())
      known->us += us;
    else
      stages_.push_back({.name = std::move(name), .us = us});
  }
  [[nodiscard]] std::vector<Stage> take() { return std::move(stages_); }

 private:
  std::uint64_t last_;
  std::vector<Stage> stages_;
};

}  // namespace relive::rollback
