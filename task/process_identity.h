// What tells a process from a later one with the same id.
#pragma once

#include <fcntl.h>

#include <cstdint>

#include "model/ids.h"

namespace relive::task {

// PIDFD_THREAD of linux/pidfd.h (Linux 6.9): among the flags of pidfd_open(2), and of the pidfd itself.
inline constexpr unsigned kPidfdThread = O_EXCL;

// Of the process (or thread) that our pidfd refers to, which has the id `pid`: its inode in the kernel's pidfs (Linux
// 6.9), which is never given again; before that, when it was started, in clock ticks since the machine was (field
// "starttime" of proc_pid_stat(5)). 0: not known; it has ended.
[[nodiscard]] std::uint64_t process_identity(int pidfd, model::Pid pid);

}  // namespace relive::task
