// Putting back what a memfd held.
#pragma once

#include "apply/workshop.h"
#include "base/result.h"
#include "model/files.h"

namespace relive::apply {

// prepare: maps the memfd behind `ours` and the keeper's copy of its contents (`copy`; -1: nothing to copy) into the
// task, at spare addresses, and finds out which pages differ; commit sets the size and copies those. The mappings are
// gone when the commit has ended. Errors: refused (a seal that was not there at the snapshot), injected, system.
Result<void> put_contents(Workshop& workshop, int ours, const model::MemoryFile& wanted, int copy);

}  // namespace relive::apply
