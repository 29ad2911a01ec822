// Paths below one directory, opened so that no symbolic link and no mount point leads out of it, whoever may change it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace relive::files {

// An open parent directory and the last part of a path.
struct Place {
  int directory = -1;  // belongs to the Paths that gave it, until its next call
  std::string name;
  // For calls that take a path only, and would follow a symbolic link by /proc/self/fd/N.
  [[nodiscard]] std::string through_proc() const;
};

// Relative paths ("a/b/c") below an open directory. "" is the directory itself (name ".").
class Paths {
 public:
  // REQUIRES: `top` stays open.
  explicit Paths(int top) : top_(top) {}

  // Errors: not_found, where the parent directory is not there or is reached by a symbolic link.
  Result<Place> place(std::string_view path);
  // A regular file for reading (and writing); its access time stays as it is where that is allowed.
  Result<UniqueFd> open_file(std::string_view path, bool to_write);
  // Forgets which directory it had open: after one was moved or removed.
  void forget();
  [[nodiscard]] int top() const { return top_; }

 private:
  int top_;
  std::string parent_;
  UniqueFd parent_fd_;
};

// openat(2) with O_CLOEXEC, O_NOFOLLOW, and O_NOATIME where that is allowed (only the owner may).
Result<UniqueFd> open_quietly(int directory, const std::string& name, int flags);

}  // namespace relive::files
