// What keepers have in a task: a parasite and page stores. A dead keeper's do nothing, and a new keeper takes them out
// before it puts in its own; a living one's are not to be touched, and two keepers on one task are refused by name.
#pragma once

#include <string_view>
#include <vector>

#include "base/page_range.h"
#include "base/result.h"
#include "parasite/wire.h"
#include "task/frozen_task.h"

namespace relive::parasite {

// The names of relive's memory files, so that a reader of /proc/PID/maps knows what they are.
inline constexpr std::string_view kParasiteName = "relive-parasite";
inline constexpr std::string_view kPagesName = "relive-pages";

struct Remains {
  std::vector<AddressRange> mappings;
  std::vector<int> descriptors;  // open in the task: a keeper died between two calls
};

// Errors, with nothing changed: busy, where the keeper that put them in lives (named), or where a thread of the task is
// still on its way out of a dead keeper's hands (docs/failure-model.md); system.
Result<Remains> find_remains(task::FrozenTask& task, std::string_view maps_text);

// This process, as the keeper of a task.
Result<wire::Owner> ourselves();

}  // namespace relive::parasite
