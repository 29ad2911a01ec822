// Entries of epoll sets that epoll_ctl(2) cannot be asked for in the task.
#pragma once

#include <sys/epoll.h>

#include "base/result.h"

namespace relive::apply {

// Adds an entry for our descriptor `file` to the set behind our descriptor `set`, as if the file were under `number`.
// The kernel knows an entry by the file and the number, whoever's that is (fs/eventpoll.c): it is added in a table of
// descriptors made for that moment, so that nobody's number changes.
// Errors: refused, where our own RLIMIT_NOFILE forbids the number; system.
Result<void> watch_by_number(int set, int file, int number, const epoll_event& event);

}  // namespace relive::apply
