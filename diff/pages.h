// Pages that differ, counted per mapping. Pure.
#pragma once

#include <vector>

#include "diff/difference.h"
#include "model/memory.h"
#include "tracking/page_map.h"

namespace relive::diff {

// One difference per mapping of the snapshot that has pages to put back; Difference::pages counts them.
std::vector<Difference> describe_pages(const tracking::PagePlan& plan, const model::Memory& wanted);

// What a mapping is called: its name, or "anonymous".
std::string mapping_name(const model::Mapping& mapping);

}  // namespace relive::diff
