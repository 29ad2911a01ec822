// The directory in which one directory's saved state lies, and the journal of a way back that is under way.
//
//   owner     whose it is: the keeper's pid and start time, and the directory that it keeps
//   links/    a hard link to each saved inode that can have one: however often its names are removed, it stays
//   copies/   contents of regular files, by number
//   trees/    saved states, as text, by number
//   journal   stands while a way back is under way: the number of the state that it leads to, and whether it has begun
//
// It should lie on the mount of what it keeps: hard links work within one mount only (EXDEV, link(2)). So it is made
// beside the directory, or in it where that is the root of a mount.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "files/place.h"
#include "files/tree.h"

namespace relive::files {

class Store {
 public:
  // For the directory at `path`, open as `directory`. `where`: a directory to make it in; empty: beside, or in it.
  // Errors: permission, where none can be made; busy, where another one holds an unfinished way back for `path`.
  static Result<Store> create(int directory, const std::string& path, const std::string& where);
  // One that its owner left behind.
  static Result<Store> reopen(const std::string& place);
  static bool has_journal_at(const std::string& place);
  // Stores for the directory at `path` (in `where`, too, if that is given), and those of them whose owners have ended.
  static std::vector<std::string> all_of(const std::string& path, const std::string& where);
  static std::vector<std::string> left_behind(const std::string& path, const std::string& where);

  Store(Store&&) = default;
  Store& operator=(Store&&) = delete;
  // Removes it, unless a way back was not finished.
  ~Store();

  // Gives an inode a hard link here. false: it cannot have one (another file system, or the kernel forbids it).
  Result<bool> keep(int directory, const std::string& name, std::uint64_t inode);
  Result<void> give_link(std::uint64_t inode, int directory, const std::string& name) const;
  // Where the link is; not_found, if there is none.
  Result<Place> link_of(std::uint64_t inode) const;
  void drop_link(std::uint64_t inode);

  // A new empty file for contents. Its number is never given twice.
  Result<UniqueFd> create_copy(std::uint64_t& number);
  Result<UniqueFd> open_copy(std::uint64_t number) const;
  void drop_copy(std::uint64_t number);

  Result<void> save_tree(std::uint64_t number, const Tree& tree);
  Result<Tree> load_tree(std::uint64_t number) const;
  void drop_tree(std::uint64_t number);

  // Before the decision: a way back to this state may be under way. Behind it, before the first change: it is.
  Result<void> open_journal(std::uint64_t tree);
  Result<void> begin_journal();
  Result<void> close_journal();
  struct Journal {
    std::uint64_t tree = 0;
    bool begun = false;
  };
  [[nodiscard]] std::optional<Journal> journal() const;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] bool on_the_same_mount() const { return same_mount_; }
  // Inode of the store where it lies in the directory that it keeps; else 0.
  [[nodiscard]] std::uint64_t hidden() const { return hidden_; }

 private:
  Store() = default;
  std::string path_;
  UniqueFd fd_;
  UniqueFd links_;
  UniqueFd copies_;
  UniqueFd trees_;
  std::uint64_t last_copy_ = 0;
  std::uint64_t hidden_ = 0;
  bool same_mount_ = true;
};

}  // namespace relive::files
