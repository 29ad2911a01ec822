// Finding a file that an inotify instance watched: the kernel tells its inode and a file handle, but no path.
#pragma once

#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "model/ids.h"
#include "model/watches.h"

namespace relive::capture {

// The task whose instance it is.
struct Watcher {
  model::Pid pid;
  model::Tid thread;     // one that lives
  std::vector<int> own;  // descriptors of ours: files of the task, near which to look
};

// An O_PATH descriptor of ours of the file that `watch` watches: by its handle where we may (open_by_handle_at(2) needs
// CAP_DAC_READ_SEARCH), else by looking where programs have what they watch: the task's directories, those of its open
// files, what lies in them, and some places of the system.
// Errors: refused, naming the watch, where it is found in neither way.
Result<UniqueFd> open_watched(const Watcher& watcher, const model::InotifyWatch& watch);

}  // namespace relive::capture
