// The tree planner: from the living forest to the wanted one by system calls of its tasks. Pure.
//
// A living task is *kept* (the rest of the engine rewrites it in place), *ended* (born since), or *re-created*: killed,
// and forked again under its pid. docs/tree.md has the rules with their sources; what no sequence of system calls can
// produce is refused by name.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "diff/difference.h"
#include "diff/tree_step.h"
#include "model/forest.h"

namespace relive::diff {

struct TreePlan {
  std::vector<Difference> differences;
  std::vector<Refusal> refusals;  // with one of them there are no steps
  std::vector<std::string> notes;
  std::vector<std::string> reasoning;  // what becomes of which task, and why: one line each
  // In the order to be carried out. The first `undoable` of them are prepare: whatever fails there, undo_tree() leads
  // back to the living forest exactly. Few of the rest can fail: forks under a number that had to become free first.
  std::vector<TreeStep> steps;
  std::size_t undoable = 0;
  // The wanted forest as the steps leave it. It differs from what was asked for only in parents outside of the tree,
  // each of which has a note.
  model::Forest goal;
  std::vector<model::Pid> kept;     // zombies that are kept among them
  std::vector<model::Pid> created;  // blank tasks of the goal, in the order of their forks
  std::vector<model::Pid> ended;    // living tasks that are killed or reaped; a re-created one is here and in `created`
  std::vector<model::Pid> numbers;  // that a helper must not have: ascending
  // Sessions that the steps begin, and whose living leaders they kill: what hangs on them (a controlling terminal, its
  // SIGHUP) is for others to look at.
  std::vector<model::Pid> sessions_begun;
  std::vector<model::Pid> sessions_bereft;
  // The groups of steps that belong together, and which must come before which: for dot().
  std::vector<std::string> stages;
  std::vector<std::pair<std::size_t, std::size_t>> before;
};

[[nodiscard]] TreePlan plan_tree(const model::Forest& wanted, const model::Forest& living,
                                 const model::Surroundings& surroundings);

// The steps that take back the first `done` steps. REQUIRES: done <= plan.undoable.
[[nodiscard]] std::vector<TreeStep> undo_tree(const TreePlan& plan, const model::Forest& living,
                                              const model::Surroundings& surroundings, std::size_t done);

// For --dry-run: the reasoning, then the steps, numbered.
[[nodiscard]] std::vector<std::string> lines(const TreePlan& plan);
// For --dot: the stages and their order as a Graphviz text.
[[nodiscard]] std::string dot(const TreePlan& plan);

}  // namespace relive::diff
