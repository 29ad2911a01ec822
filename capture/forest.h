// How frozen tasks hang together: parents, groups, sessions, and what they share.
#pragma once

#include <vector>

#include "base/result.h"
#include "model/forest.h"
#include "task/frozen_tree.h"

namespace relive::capture {

// Every task and every zombie of the tree, by pid, from /proc/PID/stat and kcmp(2); all but child_subreaper, which only
// the task itself can tell (model::Process). Where the kernel lacks kcmp nothing is told to be shared.
Result<model::Forest> read_forest(task::FrozenTree& tree);
// The same of one task, without what it shares.
Result<model::TreeTask> read_tree_task(model::Pid pid);

// What the forest stands in: numbers and groups that tasks outside of it use. Reads all of /proc (some 30 us a task):
// needed only where a task must be made again. `relive`'s own ids are among the taken ones.
Result<model::Surroundings> read_surroundings(const model::Forest& living);

}  // namespace relive::capture
