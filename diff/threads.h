// Threads: what differs, what cannot be put back, what must be made and ended. Pure.
#pragma once

#include <vector>

#include "diff/difference.h"
#include "model/thread.h"

namespace relive::diff {

struct ThreadPlan {
  std::vector<Difference> differences;
  std::vector<Refusal> refusals;
  std::vector<model::Tid> missing;  // of the snapshot, ended since: to be made
  std::vector<model::Tid> surplus;  // born since: to be ended
  std::size_t changed = 0;          // threads that are made, ended, or whose state differs
};

// REQUIRES: both with the leader first, if it lives.
ThreadPlan plan_threads(const std::vector<model::Thread>& wanted, const std::vector<model::Thread>& living);

}  // namespace relive::diff
