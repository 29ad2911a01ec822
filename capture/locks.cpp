#include "capture/locks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "base/unique_fd.h"
#include "capture/fdinfo.h"
#include "task/procfs.h"

namespace relive::capture {

namespace {

using model::FileLock;
using model::LockKind;
using model::LockMode;

std::string_view take_word(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  const std::string_view word = text.substr(0, text.find_first_of(" \t"));
  text.remove_prefix(word.size());
  return word;
}

LockKind kind_of(std::string_view word) {
  if (word == "POSIX") return LockKind::posix;
  if (word == "OFDLCK") return LockKind::open_file;
  if (word == "FLOCK") return LockKind::flock;
  if (word == "LEASE") return LockKind::lease;
  return LockKind::other;  // DELEG, ACCESS
}

// "00:2a:1234": major and minor in hexadecimal, the inode in decimal.
std::optional<model::FileIdentity> file_of(std::string_view word) {
  unsigned major_number = 0;
  unsigned minor_number = 0;
  model::FileIdentity file;
  const char* const end = word.data() + word.size();
  auto at = std::from_chars(word.data(), end, major_number, 16);
  if (at.ec != std::errc{} || at.ptr == end || *at.ptr != ':') return std::nullopt;
  at = std::from_chars(at.ptr + 1, end, minor_number, 16);
  if (at.ec != std::errc{} || at.ptr == end || *at.ptr != ':') return std::nullopt;
  at = std::from_chars(at.ptr + 1, end, file.inode, 10);
  if (at.ec != std::errc{} || at.ptr != end) return std::nullopt;
  file.device = makedev(major_number, minor_number);
  return file;
}

// "1: POSIX  ADVISORY  WRITE 1234 00:2a:5678 0 EOF"; "-> " stands before the kind where it is waited for
// (fs/locks.c, lock_get_status).
struct Line {
  FileLock lock;
  bool waits = false;
};
std::optional<Line> parse_line(std::string_view text) {
  Line line;
  take_word(text);  // the number
  std::string_view word = take_word(text);
  if (word == "->") {
    line.waits = true;
    word = take_word(text);
  }
  line.lock.kind = kind_of(word);
  line.lock.breaking = take_word(text) == "BREAKING";
  line.lock.mode = take_word(text) == "WRITE" ? LockMode::write : LockMode::read;
  take_word(text);  // the pid
  const auto file = file_of(take_word(text));
  if (!file) return std::nullopt;
  line.lock.file = *file;
  const std::string_view first = take_word(text);
  const std::string_view last = take_word(text);
  if (first.empty() || last.empty()) return std::nullopt;
  line.lock.first = number_in(first, 10);
  line.lock.last = last == "EOF" ? model::kLockToEnd : number_in(last, 10);
  return line;
}

}  // namespace

Result<std::vector<FileLock>> parse_locks(std::string_view fdinfo, int table) {
  constexpr std::string_view kName = "lock:";
  std::vector<FileLock> locks;
  while (!fdinfo.empty()) {
    const std::string_view text = take_line(fdinfo);
    if (!text.starts_with(kName)) continue;
    const auto line = parse_line(text.substr(kName.size()));
    if (!line) return fail(ErrorKind::system, fmt::format("a line of fdinfo that is no lock: \"{}\"", text));
    locks.push_back(line->lock);
    if (line->lock.kind == LockKind::posix) locks.back().table = table;
  }
  return locks;
}

std::optional<std::set<std::uint64_t>> locked_inodes(std::string_view proc_locks) {
  std::set<std::uint64_t> inodes;
  while (!proc_locks.empty()) {
    const auto line = parse_line(take_line(proc_locks));
    if (!line) return std::nullopt;
    inodes.insert(line->lock.file.inode);
  }
  return inodes;
}

void LockList::read() {
  constexpr ino_t kFirstNamespace = 0xEFFFFFFC;  // PROC_PID_INIT_INO of the kernel's proc_ns.h
  struct stat status{};
  if (::stat("/proc/self/ns/pid", &status) != 0 || status.st_ino != kFirstNamespace) return;
  const UniqueFd file(::open("/proc/locks", O_RDONLY | O_CLOEXEC));
  if (!file) return;
  if (const auto text = task::read_whole(file.get(), "/proc/locks")) inodes_ = locked_inodes(*text);
}

bool LockList::surely_none(int ours, const struct stat& status) {
  // Whoever reads the list waits for a grace period of the kernel's (percpu_down_write() in locks_start(), fs/locks.c):
  // 10 ms, if nobody has read it of late.
  constexpr std::size_t kCheaperOneByOne = 1000;
  if (++asked_ == kCheaperOneByOne) read();
  if (!inodes_ || inodes_->contains(status.st_ino)) return false;
  const auto [known, fresh] = plain_.try_emplace(status.st_dev, false);
  if (fresh) {
    constexpr std::array<long, 5> kPlain{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, TMPFS_MAGIC, RAMFS_MAGIC, F2FS_SUPER_MAGIC};
    struct statfs system{};
    known->second = ::fstatfs(ours, &system) == 0 && std::ranges::find(kPlain, system.f_type) != kPlain.end();
  }
  return known->second;
}

int count_flocks(std::string_view proc_locks, const model::FileIdentity& file) {
  int count = 0;
  while (!proc_locks.empty()) {
    const auto line = parse_line(take_line(proc_locks));
    if (line && !line->waits && line->lock.kind == LockKind::flock && line->lock.file == file) ++count;
  }
  return count;
}

bool somebody_waits(std::string_view proc_locks, LockKind kind, const model::FileIdentity& file) {
  while (!proc_locks.empty()) {
    const auto line = parse_line(take_line(proc_locks));
    // POSIX and open-file-description locks exclude each other.
    const auto alike = [&](LockKind other) {
      return other == kind || (kind == LockKind::posix && other == LockKind::open_file);
    };
    if (line && line->waits && alike(line->lock.kind) && line->lock.file == file) return true;
  }
  return false;
}

}  // namespace relive::capture
