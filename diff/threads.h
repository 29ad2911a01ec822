// Threads: what differs, what cannot be put back, what must be made and ended. Pure.
#pragma once

#include <map>
#include <vector>

#include "diff/difference.h"
#include "diff/rights.h"
#include "model/thread.h"

namespace relive::diff {

struct ThreadPlan {
  std::vector<Difference> differences;
  std::vector<Refusal> refusals;
  std::vector<model::Tid> missing;                       // of the snapshot, ended since: to be made
  std::vector<model::Tid> surplus;                       // born since: to be ended
  std::map<model::Tid, std::vector<RightsStep>> rights;  // what threads that relive has made give up, as their last act
  std::size_t changed = 0;                               // threads that are made, ended, or whose state differs
};

// REQUIRES: both with the leader first, if it lives. `blank`: the task is one that relive has just forked, and may be
// given fewer rights; those of a task that lives are compared only.
ThreadPlan plan_threads(const std::vector<model::Thread>& wanted, const std::vector<model::Thread>& living,
                        bool blank = false);

}  // namespace relive::diff
