// A family of tasks that knows whether it stands at its snapshot or behind it.
#pragma once

#include <string>

#include "live/child.h"

namespace relive::testing {

// As run_victim() (faults/victim.h). At the snapshot it has four children; behind it one of them lives on, one (of a
// lesser user, where there is one) has ended and was waited for, one was killed and was not, one that ran another
// program has ended, and there is a new one.
int run_tree_victim(ChildEnd end, const std::string& scratch);

}  // namespace relive::testing
