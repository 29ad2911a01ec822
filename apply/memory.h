// Carrying out what diff/memory.h planned: mappings of one task go back, and their contents.
//
// Prepare, in the undo log step by step: missing mappings are made, in place where nothing is mapped, else at spare
// addresses; kept mappings get the rights they lack (the wanted ones, and write access where pages will be written);
// locks change hands; the program break and layout are set (PR_SET_MM_MAP, which wants no capability without exe_fd).
// Probed, because it would fail too late otherwise: that nothing to be changed is sealed, and that no file to be
// written has been truncated or is out of room.
//
// Commit, in this order: surplus unmapped, new mappings moved over what is there, pages copied from the store, pages
// dropped, rights taken back, names and marks stated.
#pragma once

#include <functional>
#include <vector>

#include "apply/workshop.h"
#include "base/result.h"
#include "diff/memory.h"
#include "tracking/page_map.h"
#include "tracking/page_store.h"

namespace relive::apply {

// Where in the task a page of the store can be read.
using SlotAddress = std::function<model::TaskAddress(tracking::Slot)>;

// REQUIRES: plan.refusals is empty; `pages` was planned with plan.kept and plan.made; own ranges of the session do not
// change until the commit. Errors leave the undo to the visit; ErrorKind::refused names a mapping whose object is gone
// and is not held, whose file was truncated, or the limit of mappings that would be passed.
Result<void> prepare_memory(Workshop& workshop, const diff::MemoryPlan& plan, const tracking::PagePlan& pages,
                            const SlotAddress& address_in_task);

inline Result<void> prepare_memory(Workshop& workshop, const diff::MemoryPlan& plan, const tracking::PagePlan& pages,
                                   const tracking::PageStore& store) {
  return prepare_memory(workshop, plan, pages, [&](tracking::Slot slot) { return store.address_in_task(slot); });
}

// The marks of all wanted mappings, stated whether they differ or not: a mark that was changed on a whole mapping is
// not to be seen in the maps text (capture/memory.h). Few calls: one for each run of mappings that agree, no matter
// what lies between them. `barriers` (ascending, disjoint): memory that must not be touched.
std::vector<diff::MarkRange> restated_marks(const std::vector<diff::MemoryPiece>& pieces,
                                            const tracking::Ranges& barriers);

}  // namespace relive::apply
