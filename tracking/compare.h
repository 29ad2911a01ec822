// The truth: pages of the living memory compared with the store.
#pragma once

#include "base/result.h"
#include "model/memory.h"
#include "parasite/session.h"
#include "tracking/page_map.h"
#include "tracking/page_store.h"

namespace relive::tracking {

// Pages in `within` whose contents are not what `current` says, `there` being the pages there that are populated:
// pages of `current` that are there and differ or are no longer there, and pages that are there, that `current` does
// not know, and that are not zeros (private anonymous and shared memory) or are copies at all (private memory of
// files). The parasite compares; what the task itself may not read is compared by the keeper. REQUIRES: `there` lies
// inside `within`, and `within` inside mappings that relive cares for.
Result<Ranges> differing(parasite::Visit& visit, const model::Memory& living, const Ranges& within, const Ranges& there,
                         const PageMap& current, const PageStore& store);

}  // namespace relive::tracking
