// What becomes of each task: kept, ended, re-created, created. Pure.
//
// A living task is kept where its parent, session and exit signal either are what is wanted or become so by what only
// it, or its parent's end, can do. All else follows from one fact: nobody can change another task's parent or session.
#pragma once

#include <map>
#include <set>
#include <string>

#include "diff/tree_table.h"
#include "model/forest.h"

namespace relive::diff {

struct TreeInput {
  TreeInput(const model::Forest& wanted_forest, const model::Forest& living_forest,
            const model::Surroundings& surroundings_of_both)
      : wanted(wanted_forest), living(living_forest), surroundings(surroundings_of_both) {}
  TaskTable wanted;
  TaskTable living;
  const model::Surroundings& surroundings;
};

struct Fates {
  std::set<model::Pid> kept;                   // wanted and living: the same task
  std::set<model::Pid> callers;                // living tasks that may fork: the kept ones, at need surplus ones
  std::map<model::Pid, std::string> ended;     // living ones that must go, and why
  std::map<model::Pid, std::string> created;   // wanted ones that must be forked, and why
  std::set<model::Pid> begin_session;          // kept ones that will call setsid(2)
  std::map<model::Pid, model::Pid> adoptions;  // kept one -> who adopts it as its living parent dies
};

// `blamed`: living tasks that are not to be kept, and why; what the caller says (Surroundings::recreate) among them.
// `surplus_forks`: tasks that are born since may fork before they are ended.
[[nodiscard]] Fates decide_fates(const TreeInput& input, const std::map<model::Pid, std::string>& blamed,
                                 bool surplus_forks);

// Can this living task make system calls before any task dies? (A zombie cannot, nor one that waits for a vfork child.)
[[nodiscard]] bool can_act(const TreeInput& input, const Fates& fates, model::Pid pid);

}  // namespace relive::diff
