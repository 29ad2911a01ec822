// Named stretches of time, one after the other.
#pragma once

#include <time.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace relive::rollback {

// One named stretch of a rollback, for `rollback --json` and bench.
struct Stage {
  std::string name;
  std::uint64_t us = 0;
};

class Stopwatch {
 public:
  Stopwatch() : last_(now_ns()) {}
  // The stretch since the last call (or construction) is called `name`.
  void lap(std::string name) {
    const std::uint64_t now = now_ns();
    stages_.push_back({.name = std::move(name), .us = (now - last_) / 1000});
    last_ = now;
  }
  [[nodiscard]] std::vector<Stage> take() { return std::move(stages_); }
  static std::uint64_t now_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(now.tv_nsec);
  }

 private:
  std::uint64_t last_;
  std::vector<Stage> stages_;
};

}  // namespace relive::rollback
