// A place for a test on a file system of a kind. Gone with the process: the mounts are in a namespace of its own.
#pragma once

#include <memory>
#include <string>

namespace relive::testing {

// "here" (the temporary directory's), "tmpfs", "ext4", "xfs", "btrfs", "overlay".
class Ground {
 public:
  // Null, and `lacks` as "needs NAME: ...", where this machine cannot.
  static std::unique_ptr<Ground> make(const std::string& kind, std::string& lacks);
  Ground(const Ground&) = delete;
  Ground& operator=(const Ground&) = delete;
  ~Ground();
  // An empty directory for files, with room beside it.
  [[nodiscard]] std::string directory() const { return scratch_ + "/ground/files"; }
  [[nodiscard]] std::string root() const { return scratch_ + "/ground"; }
  // On another file system.
  [[nodiscard]] const std::string& elsewhere() const { return scratch_; }

 private:
  explicit Ground(std::string scratch) : scratch_(std::move(scratch)) {}
  std::string scratch_;
};

}  // namespace relive::testing
