// Credentials are compared and never lifted: a task that lives and whose rights changed since the snapshot is refused
// by name. One that is made again gives rights up (diff/rights.h).
#pragma once

#include <optional>

#include "diff/difference.h"
#include "model/thread.h"

namespace relive::diff {

// The first way in which the rights of a thread differ, as a refusal whose reason says both values. What a task can
// never take back (dropped capabilities, no_new_privs, seccomp filters) needs the task re-created, which this release
// does where it has ended only.
std::optional<Refusal> compare_credentials(const model::Credentials& wanted, const model::Credentials& living);

}  // namespace relive::diff
