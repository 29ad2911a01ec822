// Putting the descriptor tables of a tree back (diff/descriptors.h says what; docs/descriptors.md for users).
#pragma once

#include <span>
#include <vector>

#include "apply/workshop.h"
#include "base/result.h"
#include "diff/descriptors.h"
#include "model/descriptor.h"

namespace relive::apply {

// `tables`, here and below: by RemoteFd::table, the workshop of a task that has it; null where no task has it. Those
// behind the wanted tables are of tasks that are going to end: nothing is committed in them.

// Makes or fetches, at spare numbers of the tasks, every file that their tables lack; appends the rest to the commit
// program of each table's workshop and the closing of the spares to its cleanup. No table's program depends on
// another's having run. A table that does not live yet is made by the caller beforehand, empty but for relive's own.
// REQUIRES: `plan` was made of `wanted` and `living`, and has no refusals; raise_limits() was called for every task; no
// other executor was given a number that the wanted tables use (Visit::keep_clear). Errors leave the undo logs such
// that each table goes back to what it was, in whatever order the tasks undo: refused (an address was taken by somebody
// else, a number lies above RLIMIT_NOFILE, a file's owner has ended), permission, injected, system.
// `holders`: for each living table a task that has it, also behind `tables`, where tasks born since have theirs: they
// change nothing there, but may be the only ones to have a file.
Result<void> prepare_descriptors(std::span<Workshop* const> tables, const diff::DescriptorPlan& plan,
                                 const model::DescriptorTable& wanted, const model::DescriptorTable& living,
                                 std::span<parasite::Visit* const> holders = {});

// Appends to each cleanup what sets the POSIX locks of its table once more, when the last number is closed. To be
// called behind every other executor.
Result<void> settle_locks(std::span<Workshop* const> tables, const diff::DescriptorPlan& plan);

// The numbers of one table, for Visit::keep_clear.
std::vector<model::RemoteFd> numbers_of(const model::DescriptorTable& table, int of_table = 0);

}  // namespace relive::apply
