#include "files/shaker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>

namespace relive::testing {

namespace {
constexpr std::size_t kMostBytes = 300'000;
constexpr std::size_t kNames = 12;
}  // namespace

std::string Shaker::some(char kind) {
  std::vector<std::string> found;
  if (kind != 'f') found.push_back(directory_);
  std::error_code error;
  for (auto at = std::filesystem::recursive_directory_iterator(directory_, error);
       at != std::filesystem::recursive_directory_iterator(); at.increment(error)) {
    if (at->path().filename().string().starts_with(".relive-")) {
      at.disable_recursion_pending();
      continue;
    }
    const auto status = at->symlink_status(error);
    if (kind == '*' || (kind == 'd' && status.type() == std::filesystem::file_type::directory) ||
        (kind == 'f' && status.type() == std::filesystem::file_type::regular))
      found.push_back(at->path().string());
  }
  std::ranges::sort(found);
  return found.empty() ? std::string("/nowhere/at/all") : found[below(found.size())];
}

// Few names, so that they meet.
std::string Shaker::fresh() { return fmt::format("{}/n{}", some('d'), below(kNames)); }

void Shaker::write(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return;
  std::string bytes(1 + below(below(4) == 0 ? kMostBytes : 100), static_cast<char>('a' + below(26)));
  if (below(8) == 0) std::ranges::fill(bytes, '\0');
  [[maybe_unused]] const auto written = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(below(kMostBytes)));
  ::close(fd);
}

void Shaker::write_mapped(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return;
  struct stat seen{};
  ::fstat(fd, &seen);
  const auto size = static_cast<std::size_t>(seen.st_size);
  if (size != 0) {
    void* const there = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (there != MAP_FAILED) {
      auto* const bytes = static_cast<volatile char*>(there);
      const std::size_t at = below(size);
      bytes[at] = static_cast<char>(bytes[at] + 1);
      ::munmap(there, size);
    }
  }
  ::close(fd);
}

void Shaker::make(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600 + static_cast<int>(below(64)));
  if (fd < 0) return;
  ::close(fd);
  for (std::size_t pieces = below(3); pieces > 0; --pieces) write(path);
}

// As editors and databases do: written beside, then renamed over.
void Shaker::replace(const std::string& path) {
  const std::string beside = path + ".new";
  make(beside);
  ::rename(beside.c_str(), path.c_str());
}

void Shaker::change() {
  const std::array<timespec, 2> times{timespec{static_cast<time_t>(below(1'000'000'000)), 7},
                                      timespec{static_cast<time_t>(below(1'000'000'000)), 123'456'789}};
  const std::string value(1 + below(60), 'v');
  switch (below(22)) {
    case 0:
    case 1:
    case 2:
      return make(fresh());
    case 3:
    case 4:
    case 5:
      return write(some('f'));
    case 6:
      return write_mapped(some('f'));
    case 7: {
      const std::string path = some('f');
      struct stat seen{};
      if (::stat(path.c_str(), &seen) == 0) ::truncate(path.c_str(), static_cast<off_t>(below(kMostBytes)));
      return;
    }
    case 8: {
      const int fd = ::open(some('f').c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
      if (fd < 0) return;
      ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(4096 * below(20)),
                  static_cast<off_t>(4096 * (1 + below(20))));
      ::close(fd);
      return;
    }
    case 9:
    case 10:
      ::unlink(some('*').c_str());
      return;
    case 11:
      return replace(some('f'));
    case 12:
      ::mkdir(fresh().c_str(), 0700 + static_cast<mode_t>(below(64)));
      return;
    case 13:
    case 14:
      ::rename(some('*').c_str(), fresh().c_str());
      return;
    case 15: {
      const std::string path = some('d');
      std::error_code error;
      if (path != directory_ && below(3) == 0) std::filesystem::remove_all(path, error);
      return;
    }
    case 16:
      ::link(some('*').c_str(), fresh().c_str());
      return;
    case 17:
      if (below(2) == 0)
        ::symlink(fmt::format("n{}", below(kNames)).c_str(), fresh().c_str());
      else
        ::mkfifo(fresh().c_str(), 0640);
      return;
    case 18: {
      const std::string path = some('*');
      struct stat seen{};
      if (::lstat(path.c_str(), &seen) == 0 && !S_ISLNK(seen.st_mode))
        ::chmod(path.c_str(), 0700 | static_cast<mode_t>(below(01000)));
      return;
    }
    case 19:
      if (::geteuid() == 0) ::lchown(some('*').c_str(), static_cast<uid_t>(below(3)), static_cast<gid_t>(below(3)));
      return;
    case 20: {
      const std::string path = some('*');
      const std::string name = fmt::format("user.n{}", below(4));
      if (below(2) == 0)
        ::lsetxattr(path.c_str(), name.c_str(), value.data(), value.size(), 0);
      else
        ::lremovexattr(path.c_str(), name.c_str());
      return;
    }
    default:
      ::utimensat(AT_FDCWD, some('*').c_str(), times.data(), AT_SYMLINK_NOFOLLOW);
  }
}

void Shaker::shake(int changes) {
  for (int i = 0; i < changes; ++i) change();
}

}  // namespace relive::testing
