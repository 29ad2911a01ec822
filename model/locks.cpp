#include "model/locks.h"

#include <fmt/format.h>

namespace relive::model {

std::string text(const FileLock& lock) {
  const char* const mode = lock.mode == LockMode::none ? "no" : lock.mode == LockMode::read ? "read" : "write";
  if (lock.kind == LockKind::other) return "lock of an unknown kind";
  if (lock.kind == LockKind::lease) return fmt::format("{} lease", mode);
  if (lock.kind == LockKind::flock) return fmt::format("{} lock (flock)", mode);
  const std::string bytes = lock.last == kLockToEnd ? fmt::format("bytes from {} on", lock.first)
                                                    : fmt::format("bytes {} to {}", lock.first, lock.last);
  return fmt::format("{} lock on {} ({})", mode, bytes, lock.kind == LockKind::posix ? "POSIX" : "open file");
}

}  // namespace relive::model
