#include "image/source.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/unique_fd.h"

namespace relive::image {

namespace {

constexpr std::size_t kNamesLimit = 1 << 20;  // files in one directory

class PlainFile : public ImageFile {
 public:
  PlainFile(UniqueFd fd, std::string name, std::uint64_t size)
      : fd_(std::move(fd)), name_(std::move(name)), size_(size) {}
  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] Result<void> read(std::uint64_t offset, std::span<std::byte> into) const override {
    while (!into.empty()) {
      const ssize_t got = ::pread(fd_.get(), into.data(), into.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return fail_errno("pread", name_);
      if (got == 0) return fail(ErrorKind::system, name_ + " has become shorter while it was read");
      into = into.subspan(static_cast<std::size_t>(got));
      offset += static_cast<std::uint64_t>(got);
    }
    return {};
  }

 private:
  UniqueFd fd_;
  std::string name_;
  std::uint64_t size_;
};

class Directory : public ImageSource {
 public:
  Directory(UniqueFd fd, std::string path, std::string identity)
      : fd_(std::move(fd)), path_(std::move(path)), identity_(std::move(identity)) {}

  static Result<std::unique_ptr<ImageSource>> take(UniqueFd fd, std::string path) {
    struct stat seen{};
    if (::fstat(fd.get(), &seen) != 0) return fail_errno("fstat", path);
    std::string identity = fmt::format("{}:{}", seen.st_dev, seen.st_ino);
    return std::make_unique<Directory>(std::move(fd), std::move(path), std::move(identity));
  }

  [[nodiscard]] Result<std::vector<std::string>> names() const override {
    const int again = ::openat(fd_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (again < 0) return fail_errno("open", path_);
    DIR* const stream = ::fdopendir(again);
    if (stream == nullptr) {
      ::close(again);
      return fail_errno("fdopendir", path_);
    }
    std::vector<std::string> found;
    while (const dirent* entry = ::readdir(stream)) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") found.emplace_back(name);
      if (found.size() > kNamesLimit) break;
    }
    ::closedir(stream);
    if (found.size() > kNamesLimit)
      return fail(ErrorKind::refused, fmt::format("{} has more than {} files", path_, kNamesLimit));
    std::ranges::sort(found);
    return found;
  }

  [[nodiscard]] Result<std::unique_ptr<ImageFile>> open(const std::string& name) const override {
    if (name.find('/') != std::string::npos) return fail(ErrorKind::refused, name + " is no name of a file");
    // O_NONBLOCK: whoever put a named pipe there shall not make us wait.
    UniqueFd fd(::openat(fd_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
    if (!fd && errno == ENOENT) return fail(ErrorKind::not_found, fmt::format("{}/{} is not there", path_, name));
    if (!fd) return fail_errno("open", fmt::format("{}/{}", path_, name));
    struct stat seen{};
    if (::fstat(fd.get(), &seen) != 0) return fail_errno("fstat", name);
    if (!S_ISREG(seen.st_mode)) return fail(ErrorKind::refused, fmt::format("{}/{} is no regular file", path_, name));
    return std::make_unique<PlainFile>(std::move(fd), fmt::format("{}/{}", path_, name),
                                       static_cast<std::uint64_t>(seen.st_size));
  }

  [[nodiscard]] Result<std::unique_ptr<ImageSource>> parent() const override {
    UniqueFd fd(::openat(fd_.get(), "parent", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd) return take(std::move(fd), path_ + "/parent");
    struct stat seen{};
    if (::fstatat(fd_.get(), "parent", &seen, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT) return nullptr;
    return fail_errno("open", path_ + "/parent", ENOENT);
  }

  [[nodiscard]] std::string identity() const override { return identity_; }

 private:
  UniqueFd fd_;
  std::string path_;
  std::string identity_;
};

class Bytes : public ImageFile {
 public:
  explicit Bytes(std::span<const std::byte> bytes) : bytes_(bytes) {}
  [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
  [[nodiscard]] Result<void> read(std::uint64_t offset, std::span<std::byte> into) const override {
    std::memcpy(into.data(), bytes_.data() + offset, into.size());
    return {};
  }

 private:
  std::span<const std::byte> bytes_;
};

class Memory : public ImageSource {
 public:
  Memory(const std::map<std::string, std::vector<std::byte>>& files, std::string prefix)
      : files_(files), prefix_(std::move(prefix)) {}
  [[nodiscard]] Result<std::vector<std::string>> names() const override {
    std::vector<std::string> found;
    for (const auto& [name, bytes] : files_)
      if (name.starts_with(prefix_) && name.find('/', prefix_.size()) == std::string::npos)
        found.push_back(name.substr(prefix_.size()));
    return found;
  }
  [[nodiscard]] Result<std::unique_ptr<ImageFile>> open(const std::string& name) const override {
    const auto at = files_.find(prefix_ + name);
    if (at == files_.end()) return fail(ErrorKind::not_found, name + " is not there");
    return std::make_unique<Bytes>(at->second);
  }
  [[nodiscard]] Result<std::unique_ptr<ImageSource>> parent() const override {
    const std::string deeper = prefix_ + "parent/";
    const auto at = files_.lower_bound(deeper);
    if (at == files_.end() || !at->first.starts_with(deeper)) return nullptr;
    return std::make_unique<Memory>(files_, deeper);
  }
  [[nodiscard]] std::string identity() const override { return prefix_; }

 private:
  const std::map<std::string, std::vector<std::byte>>& files_;
  std::string prefix_;
};

}  // namespace

Result<std::unique_ptr<ImageSource>> open_directory(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd && (errno == ENOENT || errno == ENOTDIR))
    return fail(ErrorKind::not_found, fmt::format("no directory {}", path));
  if (!fd) return fail_errno("open", path);
  return Directory::take(std::move(fd), path);
}

std::unique_ptr<ImageSource> in_memory(const std::map<std::string, std::vector<std::byte>>& files) {
  return std::make_unique<Memory>(files, "");
}

}  // namespace relive::image
