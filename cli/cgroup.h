// A tree that is named by its control group.
#pragma once

#include <string>

#include "base/result.h"
#include "model/ids.h"

namespace relive::cli {

// The one task in the control group, or in those below it, whose parent is in none of them. `directory`: of cgroup v1
// or v2; its cgroup.procs is read (cgroups(7)). Errors: not_found; refused, with the tasks, where there are several.
Result<model::Pid> root_of_cgroup(const std::string& directory);

}  // namespace relive::cli
