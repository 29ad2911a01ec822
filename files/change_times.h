// What the change time (ctime) of a file tells on a file system: found out by trying, in a file of relive's own.
#pragma once

#include "base/result.h"
#include "files/tree.h"

namespace relive::files {

struct ChangeTimes {
  // A change behind a look gives another time than the one that was seen. Since Linux 6.13 ("multigrain timestamps") on
  // ext4, xfs, btrfs and tmpfs; before, changes within one tick of the clock have one time.
  bool fine = false;
  // The first write into a page by way of a mapping is seen. Not so on tmpfs, where a page that was read before is
  // writable without a fault (mm/memory.c: vma_wants_writenotify).
  bool mapped_writes = false;
};

// `fd`: an empty file on that file system, open to read and write; it is empty again afterwards.
Result<ChangeTimes> try_change_times(int fd);

// True if a change right now could have this time again.
bool too_fresh(const Time& changed);
// Waits until it could not: a tick of the clock. A time that the clock has been set back behind stays too fresh.
void let_pass(const Time& changed);

}  // namespace relive::files
