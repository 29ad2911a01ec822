// Locks and leases on files (flock(2), fcntl(2)).
//
// Whom a lock belongs to decides what a close(2) does. A POSIX lock belongs to the process (its descriptor table): the
// close of ANY descriptor of the file lets go of all of them. flock(2), open-file-description locks and leases belong
// to the open file description: the last close lets go of them, so nobody else may hold a reference to it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/files.h"

namespace relive::model {

enum class LockKind : std::uint8_t {
  posix,      // fcntl(F_SETLK)
  open_file,  // fcntl(F_OFD_SETLK)
  flock,      // flock(2): always the whole file
  lease,      // fcntl(F_SETLEASE): always the whole file
  other,      // one that this release does not know
};
enum class LockMode : std::uint8_t { none, read, write };  // in this order: each excludes more than the one before

inline constexpr std::uint64_t kLockToEnd = (std::uint64_t{1} << 63) - 1;  // OFFSET_MAX: up to the end, however far

struct FileLock {
  LockKind kind = LockKind::posix;
  LockMode mode = LockMode::read;
  std::uint64_t first = 0;  // bytes, both included
  std::uint64_t last = kLockToEnd;
  bool breaking = false;   // a lease that somebody else is breaking
  FileIdentity file = {};  // as the list of locks names it: fstat(2) may tell another device (btrfs)
  int table = 0;           // of a POSIX lock: whose it is, as RemoteFd::table
  bool operator==(const FileLock&) const = default;
};

// Does it go with the open file description, and not with the process?
[[nodiscard]] inline bool sticks_to_description(const FileLock& lock) { return lock.kind != LockKind::posix; }

// "write lock on bytes 0 to 99 (POSIX)", "read lease".
[[nodiscard]] std::string text(const FileLock& lock);

}  // namespace relive::model
