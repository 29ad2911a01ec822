// Which pages have contents of their own, and how each mapping is to be watched.
#pragma once

#include "base/result.h"
#include "model/memory.h"
#include "parasite/session.h"
#include "tracking/page_map.h"
#include "tracking/pagemap.h"

namespace relive::tracking {

// What relive does about the contents of a mapping.
enum class Care : std::uint8_t {
  none,               // read-only shared, the kernel's, devices, droppable, hugetlb: contents are nobody's to put back
  private_anonymous,  // pages appear from zeros
  private_file,       // pages appear from the file; those that were written are copies, anonymous
  shared,             // writable by this task; contents belong to the object and may be written by anybody
};
Care care_of(const model::Mapping& mapping);

// Ranges of the mappings with one of these kinds of care.
Ranges ranges_with(const model::Memory& memory, std::initializer_list<Care> cares);
// Ranges where a page that no map knows reads as zeros: private anonymous memory, and shared memory, whose every page
// with data is saved. All-zero pages there need no slot.
Ranges zero_backed(const model::Memory& memory);

// `wanted`, with neighbours joined where nothing but `wanted` or unmapped memory lies between: fewer, larger calls.
Ranges spans_of(const Ranges& wanted, const model::Memory& memory, const parasite::Session& session);

// Pages with contents of their own, in mappings of `memory` that relive cares for. What a snapshot has to save.
// - private: anonymous pages, present or swapped out, but for the kernel's page of zeros and guard pages. A page that
// is
//   not populated but protected by the uffd tracker cannot be told from a swapped one and counts as populated; ask
//   within what the tracker's changed() gave.
// - shared and writable: the data of the object, by SEEK_DATA where the object can be opened, else all of it up to its
// end. Works in every kernel (without PAGEMAP_SCAN, before 6.7, by reading pagemap).
Result<Ranges> populated(parasite::Visit& visit, const model::Memory& memory);
Result<Ranges> populated(parasite::Visit& visit, const model::Memory& memory, const Ranges& within);
// The same with a pagemap that is open already.
Result<Ranges> populated(parasite::Visit& visit, const Pagemap& pagemap, const model::Memory& memory,
                         const Ranges& within);

}  // namespace relive::tracking
