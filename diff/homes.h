// Where everything about an open file is done, in a tree of several descriptor tables. Part of diff/descriptors.h.
// Pure.
#pragma once

#include <vector>

#include "diff/table.h"

namespace relive::diff {

// By file: the lowest table that has it, or one of the files that it is put right together with: the ends of a pipe, a
// socket and those that send to it, the open files of one terminal. So what is done to them has an order.
[[nodiscard]] std::vector<int> homes_of(const Table& table);

}  // namespace relive::diff
