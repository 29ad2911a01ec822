// Which numbers of a descriptor table are in use, by the task and by relive, while the table's tasks stand still.
//
// Tasks may share a table without being threads of each other (CLONE_FILES): their visits share this, then, or one
// would hand out what the other has filled (Visit::share_descriptors).
#pragma once

#include <set>

namespace relive::parasite {

struct DescriptorNumbers {
  bool known = false;   // the table was read
  std::set<int> taken;  // in use, handed out, or kept clear
  std::set<int> open;   // in use now
  std::set<int> own;    // in use, and relive's: a commit closes them behind all else
};

}  // namespace relive::parasite
