// From the locks that one owner has on one file to those that it is to have. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/locks.h"

namespace relive::diff {

// The bytes first..last become locked in this mode, or free.
struct LockStep {
  model::LockKind kind = model::LockKind::posix;
  model::LockMode mode = model::LockMode::none;
  std::uint64_t first = 0;
  std::uint64_t last = model::kLockToEnd;
  bool operator==(const LockStep&) const = default;
};
// "take write lock on bytes 0 to 9 (POSIX)"
std::string text(const LockStep& step);
std::string text(const std::vector<LockStep>& steps);

// Nothing of what the owner has now is let go of before commit, so that nobody else can get it and every step can be
// taken back.
struct LockPlan {
  std::vector<LockStep> take;  // prepare: what is to exclude more than it does now. Can fail: others may have it
  std::vector<LockStep> back;  // undoes `take`
  std::vector<LockStep> ease;  // commit: what is to exclude less. Cannot fail
};

// Of the locks of `kind`. REQUIRES: those of each list are one owner's, so they do not overlap.
LockPlan plan_locks(model::LockKind kind, const std::vector<model::FileLock>& wanted,
                    const std::vector<model::FileLock>& living);

// What sets every byte to what `wanted` says, whatever there is.
std::vector<LockStep> state_locks(model::LockKind kind, const std::vector<model::FileLock>& wanted);

// What differs, for people: "write lock (flock) since", "no read lease any more". The identity as the kernel lists it
// does not count.
std::vector<std::string> lock_changes(const std::vector<model::FileLock>& wanted,
                                      const std::vector<model::FileLock>& living);

}  // namespace relive::diff
