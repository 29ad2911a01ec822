// A program with two descriptors of every kind that goes back: of one of them the rollback has to make the object anew,
// the other has to be put right.
#pragma once

#include <string>

#include "live/child.h"

namespace relive::testing {

// As run_victim() (faults/victim.h), with the same words.
int run_kinds_victim(ChildEnd end, const std::string& scratch);

}  // namespace relive::testing
