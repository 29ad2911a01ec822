// Taking and easing locks and leases in the task.
#pragma once

#include <vector>

#include "apply/file_maker.h"
#include "base/result.h"
#include "diff/locks.h"
#include "model/descriptor.h"
#include "model/ids.h"

namespace relive::apply {

// prepare: takes each through the number `from`, without waiting; `back` is recorded first. One fault point. Errors:
// refused, by name, where somebody else has it.
Result<void> take_locks(FileMaker& maker, model::RemoteFd from, const model::OpenFile& file,
                        const std::vector<diff::LockStep>& steps, const std::vector<diff::LockStep>& back);

// Records, before anything else of a table is prepared, what gives the task its locks back after everything has been
// undone: the close of a spare number of the same file lets go of POSIX locks.
Result<void> record_locks(FileMaker& maker, model::RemoteFd fd, const std::vector<diff::LockStep>& steps);

// prepare: opens the file behind `reference` (O_PATH) again, as `file` was opened, without its locks, and makes it the
// wanted table's `index`. Nobody but the task keeps the new description.
Result<void> open_anew(FileMaker& maker, std::size_t index, const model::OpenFile& file, int reference);

// Operations of a program that set these, through the number `fd`. With `go_on`, steps that the kernel refuses (a
// file that was never locked in this way) are passed over.
Result<void> set_locks(FileMaker& maker, parasite::Program& program, model::RemoteFd fd,
                       const std::vector<diff::LockStep>& steps, parasite::Program::OnError on_error);

// prepare: refuses where somebody waits for a lock on the file that will be free for a moment.
Result<void> refuse_waiters(const model::OpenFile& file);

}  // namespace relive::apply
