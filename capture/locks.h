// Locks and leases as the kernel lists them: lines "lock:" of /proc/PID/fdinfo/N (proc_pid_fdinfo(5)), and /proc/locks
// (proc_locks(5)). They are read, never found out by trying.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/locks.h"

namespace relive::capture {

// The locks that stand on an open file, from its fdinfo: a POSIX lock is listed at the description through which it was
// taken, and to those only whose it is (`table`); the others at their own. Errors: system (a line that is none).
Result<std::vector<model::FileLock>> parse_locks(std::string_view fdinfo, int table = 0);

// Of the text of /proc/locks, which lists what this pid namespace can see:
// - how many flock(2) locks stand on the file;
[[nodiscard]] int count_flocks(std::string_view proc_locks, const model::FileIdentity& file);
// - does anybody wait for a lock of this kind on the file?
[[nodiscard]] bool somebody_waits(std::string_view proc_locks, model::LockKind kind, const model::FileIdentity& file);

}  // namespace relive::capture
