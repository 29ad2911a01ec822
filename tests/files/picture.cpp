#include "files/picture.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <iterator>

namespace relive::testing {

namespace {

std::string labels_of(const std::string& path) {
  std::array<char, 8192> names{};
  const ssize_t size = ::llistxattr(path.c_str(), names.data(), names.size());
  std::map<std::string, std::string> found;
  for (ssize_t at = 0; at < size;) {
    const std::string name(&names[static_cast<std::size_t>(at)]);
    std::array<char, 8192> value{};
    const ssize_t length = ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
    found[name] = std::string(value.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
    at += static_cast<ssize_t>(name.size()) + 1;
  }
  std::string all;
  for (const auto& [name, value] : found) all += fmt::format(" {}={}", name, std::hash<std::string>{}(value));
  return all;
}

// Opened without a change of its access time.
std::string contents_of(const std::string& path, off_t size, Holes holes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_NOATIME | O_CLOEXEC);
  if (fd < 0) return "unreadable";
  std::string layout;
  std::string bytes;
  for (off_t at = 0; at < size;) {
    const off_t data = holes == Holes::seen ? ::lseek(fd, at, SEEK_DATA) : at;
    if (data < 0) break;
    const off_t hole = holes == Holes::seen ? ::lseek(fd, data, SEEK_HOLE) : size;
    layout += fmt::format(" {}-{}", data, hole);
    const std::size_t before = bytes.size();
    bytes.resize(before + static_cast<std::size_t>(hole - data));
    if (::pread(fd, bytes.data() + before, static_cast<std::size_t>(hole - data), data) != hole - data) layout += "!";
    at = hole;
  }
  ::close(fd);
  return fmt::format("{:x}{}", std::hash<std::string>{}(bytes), layout);
}

std::string time_text(const timespec& time) { return fmt::format("{}.{:09}", time.tv_sec, time.tv_nsec); }

void add(Picture& out, std::map<unsigned long, std::string>& first, const std::string& path, const std::string& name,
         Inodes inodes, Holes holes) {
  struct stat seen{};
  if (::lstat(path.c_str(), &seen) != 0) return;
  Seen& one = out[name];
  const bool regular = S_ISREG(seen.st_mode);
  one.what = fmt::format("{:o} {}:{} {} modified {} accessed {}{}", seen.st_mode, seen.st_uid, seen.st_gid,
                         regular ? seen.st_size : 0, time_text(seen.st_mtim), time_text(seen.st_atim), labels_of(path));
  if (regular) one.contents = contents_of(path, seen.st_size, holes);
  one.inode = first.try_emplace(seen.st_ino, name).first->second;
  if (!S_ISDIR(seen.st_mode) && inodes == Inodes::same) one.number = seen.st_ino;
  if (S_ISLNK(seen.st_mode)) one.contents = std::filesystem::read_symlink(path).string();
  // Reading gives new access times: put back, so that a picture changes nothing that it shows.
  const auto put_back = [&] {
    const std::array<timespec, 2> times{seen.st_atim, seen.st_mtim};
    struct stat now{};
    if (::lstat(path.c_str(), &now) == 0 &&
        (now.st_atim.tv_sec != seen.st_atim.tv_sec || now.st_atim.tv_nsec != seen.st_atim.tv_nsec))
      ::utimensat(AT_FDCWD, path.c_str(), times.data(), AT_SYMLINK_NOFOLLOW);
  };
  if (S_ISDIR(seen.st_mode)) {
    std::map<std::string, std::string> below;
    for (const auto& entry : std::filesystem::directory_iterator(path))
      if (!entry.path().filename().string().starts_with(".relive-files-"))
        below[entry.path().filename().string()] = entry.path().string();
    put_back();
    for (const auto& [short_name, whole] : below) add(out, first, whole, name + "/" + short_name, inodes, holes);
  }
  put_back();
}

}  // namespace

Picture picture_of(const std::string& directory, Inodes inodes, Holes holes) {
  Picture out;
  std::map<unsigned long, std::string> first;
  add(out, first, directory, ".", inodes, holes);
  return out;
}

std::string unlike(const Picture& wanted, const Picture& living) {
  std::string out;
  int lines = 0;
  const auto line = [&](const std::string& text) {
    constexpr int kMost = 12;
    if (++lines <= kMost) out += text + "\n";
  };
  for (const auto& [path, seen] : wanted) {
    const auto at = living.find(path);
    if (at == living.end()) {
      line(path + " is missing");
      continue;
    }
    if (at->second.what != seen.what) line(fmt::format("{}: {}\n   wanted {}", path, at->second.what, seen.what));
    if (at->second.contents != seen.contents)
      line(fmt::format("{}: {}\n   wanted {}", path, at->second.contents, seen.contents));
    if (at->second.inode != seen.inode) line(fmt::format("{}: is {}, wanted {}", path, at->second.inode, seen.inode));
    if (at->second.number != seen.number)
      line(fmt::format("{}: inode {}, wanted {}", path, at->second.number, seen.number));
  }
  for (const auto& [path, seen] : living)
    if (!wanted.contains(path)) line(path + " is too much");
  return out;
}

}  // namespace relive::testing
