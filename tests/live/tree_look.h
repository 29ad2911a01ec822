// What a tree of tasks looks like from outside: what /proc and kcmp(2) tell of each, and what they share.
#pragma once

#include <sys/types.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "faults/likeness.h"

namespace relive::testing {

struct TreeLook {
  std::map<std::string, std::string> facts;  // "4242 parent" -> "4200"
  std::map<pid_t, Likeness> tasks;           // of those that live
};

// Whether one is stopped is not told. REQUIRES: the living ones sleep, or are stopped, or are about to.
TreeLook look_at_tree(const std::set<pid_t>& pids);

// As unlike() of likeness.h, for all of them.
std::vector<std::string> unlike(const TreeLook& before, const TreeLook& after);

}  // namespace relive::testing
