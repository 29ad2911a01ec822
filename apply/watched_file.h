// Finding a file that an inotify instance watched: the kernel tells its inode and a file handle, but no path.
#pragma once

#include "apply/workshop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "model/watches.h"

namespace relive::apply {

// An O_PATH descriptor of ours of the file that `watch` watches: by its handle where we may (open_by_handle_at(2) needs
// CAP_DAC_READ_SEARCH), else by looking where programs have what they watch: the task's directories, those of its open
// files, what lies in them, and some places of the system.
// Errors: refused, naming the watch, where it is found in neither way.
Result<UniqueFd> open_watched(Workshop& workshop, const model::InotifyWatch& watch);

}  // namespace relive::apply
