// Putting a descriptor table back (diff/descriptors.h says what; docs/descriptors.md for users).
#pragma once

#include "apply/workshop.h"
#include "base/result.h"
#include "diff/descriptors.h"
#include "model/descriptor.h"

namespace relive::apply {

// Makes or fetches, at spare numbers of the task, every file that its table lacks; appends the rest to workshop.commit
// and the closing of the spares to workshop.cleanup. REQUIRES: `plan` was made of `wanted` and `living`, and has no
// refusals; raise_limits() was called; no other executor was given a number that the wanted table uses
// (Visit::keep_clear). Errors leave the undo log such that the table goes back to what it was: refused (an address was
// taken by somebody else, a number lies above RLIMIT_NOFILE, a file's owner has ended), permission, injected, system.
Result<void> prepare_descriptors(Workshop& workshop, const diff::DescriptorPlan& plan,
                                 const model::DescriptorTable& wanted, const model::DescriptorTable& living);

// Appends to workshop.cleanup what sets the task's POSIX locks once more, when the last number is closed. To be called
// behind every other executor.
Result<void> settle_locks(Workshop& workshop, const diff::DescriptorPlan& plan);

// The numbers of a table, for Visit::keep_clear.
std::vector<model::RemoteFd> numbers_of(const model::DescriptorTable& table);

}  // namespace relive::apply
