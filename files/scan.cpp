#include "files/scan.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <memory>
#include <unordered_map>
#include <utility>

#include "files/decide.h"
#include "files/labels.h"

namespace relive::files {

namespace {

constexpr unsigned kMask = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID;
constexpr std::uint64_t kSector = 512;  // stat(2): st_blocks

Time time_of(const statx_timestamp& time) { return {time.tv_sec, time.tv_nsec}; }

Kind kind_of(std::uint16_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return Kind::regular;
    case S_IFDIR:
      return Kind::directory;
    case S_IFLNK:
      return Kind::symlink;
    case S_IFIFO:
      return Kind::fifo;
    case S_IFSOCK:
      return Kind::socket;
    default:
      return Kind::device;
  }
}

Node node_of(const struct statx& from) {
  Node node;
  node.kind = kind_of(from.stx_mode);
  node.inode = from.stx_ino;
  if ((from.stx_mask & STATX_BTIME) != 0) node.born = time_of(from.stx_btime);
  node.changed = time_of(from.stx_ctime);
  node.modified = time_of(from.stx_mtime);
  node.accessed = time_of(from.stx_atime);
  node.mode = from.stx_mode & 07777U;
  node.user = from.stx_uid;
  node.group = from.stx_gid;
  if (node.kind == Kind::regular) node.size = from.stx_size;
  node.bytes_used = from.stx_blocks * kSector;
  node.locked = (from.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND)) != 0;
  return node;
}

Result<void> read_details(const Place& place, Node& node) {
  node.labels = RELIVE_TRY(read_labels(place));
  if (node.kind != Kind::symlink) return {};
  std::array<char, PATH_MAX> target{};
  const ssize_t length = ::readlinkat(place.directory, place.name.c_str(), target.data(), target.size());
  if (length < 0) return fail_errno("readlink", place.name);
  node.target.assign(target.data(), static_cast<std::size_t>(length));
  return {};
}

Result<std::vector<std::string>> names_in(int directory, const std::string& path) {
  UniqueFd own = RELIVE_TRY(with_context(open_quietly(directory, ".", O_RDONLY | O_DIRECTORY), path));
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(own.get()), ::closedir);
  if (!stream) return fail_errno("fdopendir", path);
  [[maybe_unused]] const int taken_over = own.release();
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(stream.get())) {
    names.emplace_back(entry->d_name);
    if (names.back() == "." || names.back() == "..") names.pop_back();
  }
  if (errno != 0) return fail_errno("readdir", path);
  std::ranges::sort(names);
  return names;
}

class Scanner {
 public:
  Scanner(Detail detail, const Tree* known, std::uint64_t hidden) : detail_(detail), known_(known), hidden_(hidden) {
    if (known_ == nullptr) return;
    for (std::size_t index = 0; index < known_->nodes.size(); ++index)
      if (known_->nodes[index].kind == Kind::directory) known_directories_[known_->nodes[index].inode] = index;
    numbers_.reserve(known_->nodes.size() * 2);
    out_.tree.nodes.reserve(known_->nodes.size() + 64);
  }

  Result<void> top(int fd) {
    struct statx seen{};
    if (::statx(fd, "", AT_EMPTY_PATH, kMask, &seen) != 0) return fail_errno("statx", "the directory");
    mount_ = seen.stx_mnt_id;
    device_ = makedev(seen.stx_dev_major, seen.stx_dev_minor);
    out_.tree.nodes.push_back(node_of(seen));
    if (detail_ == Detail::all) RELIVE_TRY(read_details({fd, "."}, out_.tree.nodes.front()));
    return directory(0, fd, "");
  }
  Scan take() { return std::move(out_); }

 private:
  // Nodes move when one is added: by index only.
  Result<void> directory(std::size_t index, int fd, const std::string& path) {
    const std::vector<Entry>* known = nullptr;
    if (known_ != nullptr) {
      const Node& node = out_.tree.nodes[index];
      const auto at = known_directories_.find(node.inode);
      if (at != known_directories_.end()) {
        const Node& before = known_->nodes[at->second];
        if (same_inode(before, node) && before.changed == node.changed && !before.doubtful) known = &before.entries;
      }
    }
    std::vector<Entry> entries;
    if (known != nullptr) {
      entries.reserve(known->size());
      for (const Entry& entry : *known) RELIVE_TRY(name(fd, path, entry.name, entries));
    } else {
      for (const std::string& one : RELIVE_TRY(names_in(fd, path))) RELIVE_TRY(name(fd, path, one, entries));
    }
    out_.tree.nodes[index].entries = std::move(entries);
    return {};
  }

  Result<void> name(int fd, const std::string& path, const std::string& name, std::vector<Entry>& entries) {
    struct statx seen{};
    if (::statx(fd, name.c_str(), AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, kMask, &seen) != 0) {
      if (errno == ENOENT) return {};
      return fail_errno("statx", join(path, name));
    }
    if (hidden_ != 0 && seen.stx_ino == hidden_) return {};
    const bool elsewhere = makedev(seen.stx_dev_major, seen.stx_dev_minor) != device_ ||
                           ((seen.stx_mask & STATX_MNT_ID) != 0 && seen.stx_mnt_id != mount_);
    if (elsewhere) {
      out_.obstacles.push_back({join(path, name), "is a mount point", "name its directory with --files of its own"});
      return {};
    }
    const auto [at, fresh] = numbers_.try_emplace(seen.stx_ino, out_.tree.nodes.size());
    entries.push_back({name, at->second});
    if (!fresh) return {};
    out_.tree.nodes.push_back(node_of(seen));
    if (detail_ == Detail::all)
      RELIVE_TRY(with_context(read_details({fd, name}, out_.tree.nodes.back()), join(path, name)));
    if (out_.tree.nodes.back().kind != Kind::directory) return {};
    const UniqueFd below(::openat(fd, name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!below) return fail_errno("open directory", join(path, name));
    return directory(at->second, below.get(), join(path, name));
  }

  Detail detail_;
  const Tree* known_;
  std::uint64_t hidden_;
  std::uint64_t mount_ = 0;
  dev_t device_ = 0;
  Scan out_;
  std::unordered_map<std::uint64_t, std::size_t> numbers_;
  std::unordered_map<std::uint64_t, std::size_t> known_directories_;
};

}  // namespace

Result<Scan> scan(int top, Detail detail, const Tree* known, std::uint64_t hidden) {
  Scanner scanner(detail, known, hidden);
  RELIVE_TRY(scanner.top(top));
  return scanner.take();
}

Result<Node> read_node(const Place& place, Detail detail) {
  struct statx seen{};
  if (::statx(place.directory, place.name.c_str(), AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, kMask, &seen) != 0)
    return fail_errno("statx", place.name);
  Node node = node_of(seen);
  if (detail == Detail::all) RELIVE_TRY(read_details(place, node));
  return node;
}

}  // namespace relive::files
