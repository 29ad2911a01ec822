// What a fork does not give to a task that is made again: the program that it executes, and its rights. Decided before
// the first change.
#pragma once

#include <set>
#include <vector>

#include "diff/tree.h"
#include "rollback/snapshot.h"

namespace relive::rollback {

struct Living;

struct BlankPlan {
  std::set<model::Pid> executing;  // they execute their program (parasite/execute.h): who forks them runs another one,
                                   // or has executed the same one at another time, elsewhere in memory
  std::vector<diff::Refusal> refusals;
};

// Of the tasks that `tree` forks. Looks at the executables that the snapshot holds, and at nothing living.
[[nodiscard]] BlankPlan plan_blanks(const Snapshot& wanted, const Living& living, const diff::TreePlan& tree);

}  // namespace relive::rollback
