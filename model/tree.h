// Tasks that are rolled back together: a task and its descendants.
#pragma once

#include <vector>

#include "model/descriptor.h"
#include "model/ids.h"
#include "model/task.h"

namespace relive::model {

struct Tree {
  Pid root;
  std::vector<Task> tasks;
  // Of all tables of the tree. A table belongs to one task, or to several that share it (CLONE_FILES): Task::table says
  // which. Open files are shared by all tables, so that fork(2), SCM_RIGHTS, CLONE_FILES and dup(2) are all one thing:
  // several descriptors that name one open file.
  DescriptorTable descriptors;
};

}  // namespace relive::model
