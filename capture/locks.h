// Locks and leases as the kernel lists them: lines "lock:" of /proc/PID/fdinfo/N (proc_pid_fdinfo(5)), and /proc/locks
// (proc_locks(5)). They are read, never found out by trying.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/locks.h"

namespace relive::capture {

// The locks that stand on an open file, from its fdinfo: a POSIX lock is listed at the description through which it was
// taken, and to those only whose it is (`table`); the others at their own. Errors: system (a line that is none).
Result<std::vector<model::FileLock>> parse_locks(std::string_view fdinfo, int table = 0);

// Of the text of /proc/locks, which lists what this pid namespace can see:
// - the inodes that a lock stands on, whatever their devices; nothing where a line is none;
[[nodiscard]] std::optional<std::set<std::uint64_t>> locked_inodes(std::string_view proc_locks);
// - how many flock(2) locks stand on the file;
[[nodiscard]] int count_flocks(std::string_view proc_locks, const model::FileIdentity& file);
// - does anybody wait for a lock of this kind on the file?
[[nodiscard]] bool somebody_waits(std::string_view proc_locks, model::LockKind kind, const model::FileIdentity& file);

// Tells of many files that no lock can stand on them, so that their fdinfo need not be read (7 us each).
class LockList {
 public:
  // Is there certainly none on the file behind our descriptor? Said only of file systems whose inode numbers are those
  // that fstat(2) tells: not so where one lies upon another (overlayfs).
  [[nodiscard]] bool surely_none(int ours, const struct stat& status);

 private:
  // Everything is listed in /proc/locks only to who is in the first pid namespace (locks_translate_pid(), fs/locks.c):
  // elsewhere it tells nothing.
  void read();

  std::size_t asked_ = 0;
  std::optional<std::set<std::uint64_t>> inodes_;
  std::map<dev_t, bool> plain_;  // by device: such a file system?
};

}  // namespace relive::capture
