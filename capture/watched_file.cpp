#include "capture/watched_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "task/procfs.h"

namespace relive::capture {

namespace {

using model::InotifyWatch;

constexpr std::size_t kHandleRoom = 128;      // MAX_HANDLE_SZ
constexpr std::size_t kMostEntries = 50'000;  // looked at in all
constexpr int kLevelsBelow = 3;               // the working directory
constexpr std::array<const char*, 9> kUsualPlaces{"/",    "/etc",       "/tmp",     "/var/tmp", "/run",
                                                  "/dev", "/dev/input", "/dev/pts", "/dev/shm"};

struct Handle {
  alignas(file_handle) std::array<std::byte, sizeof(file_handle) + kHandleRoom> room{};
  file_handle* get() { return reinterpret_cast<file_handle*>(room.data()); }
};

// Is it the file itself? An inode number may have been given to another one since; then its handle differs.
bool is_watched(int file, const InotifyWatch& watch) {
  struct stat status{};
  if (::fstat(file, &status) != 0 || status.st_ino != watch.file.inode || status.st_dev != watch.file.device)
    return false;
  Handle handle;
  handle.get()->handle_bytes = kHandleRoom;
  int mount = 0;
  if (::name_to_handle_at(file, "", handle.get(), &mount, AT_EMPTY_PATH) != 0) return true;  // it has none
  if (handle.get()->handle_type != watch.handle_type) return true;                           // told in two ways
  return handle.get()->handle_bytes == watch.handle.size() &&
         std::memcmp(handle.get()->f_handle, watch.handle.data(), watch.handle.size()) == 0;
}

UniqueFd open_if_watched(int directory, const char* name, const InotifyWatch& watch) {
  UniqueFd file(::openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  return file && is_watched(file.get(), watch) ? std::move(file) : UniqueFd();
}

class Finder {
 public:
  Finder(const Watcher& watcher, const InotifyWatch& watch)
      : watch_(watch), pid_(watcher.pid), tid_(watcher.thread.value), own_(watcher.own) {}

  Result<UniqueFd> find() {
    UniqueFd file = RELIVE_TRY(by_handle());
    if (!file) file = by_name();
    if (file) return file;
    return fail(ErrorKind::refused,
                fmt::format("the file that watch {} was for (inode {} of device {}:{}) is not found", watch_.number,
                            watch_.file.inode, major(watch_.file.device), minor(watch_.file.device)),
                may_not_ ? "it was removed or closed since, and finding a file by its handle needs CAP_DAC_READ_SEARCH"
                         : "it was deleted since");
  }

 private:
  [[nodiscard]] std::string below_root(std::string_view path) const {
    return fmt::format("/proc/{}/task/{}/root{}", pid_.value, tid_, path);
  }

  // Any directory of the file system will do.
  Result<UniqueFd> by_handle() {
    if (watch_.handle.empty() || watch_.handle.size() > kHandleRoom) return UniqueFd();
    const std::string mounts = RELIVE_TRY(task::read_proc(pid_, fmt::format("task/{}/mountinfo", tid_)));
    const std::string device = fmt::format("{}:{}", major(watch_.file.device), minor(watch_.file.device));
    for (std::size_t at = 0; at < mounts.size();) {
      const std::size_t end = std::min(mounts.find('\n', at), mounts.size());
      const std::array<std::string_view, 5> words = first_words(std::string_view(mounts).substr(at, end - at));
      at = end + 1;
      if (words[2] != device) continue;
      const UniqueFd mount(::open(below_root(words[4]).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!mount) continue;
      Handle handle;
      handle.get()->handle_bytes = static_cast<unsigned>(watch_.handle.size());
      handle.get()->handle_type = watch_.handle_type;
      std::memcpy(handle.get()->f_handle, watch_.handle.data(), watch_.handle.size());
      UniqueFd file(::open_by_handle_at(mount.get(), handle.get(), O_PATH | O_CLOEXEC));
      may_not_ = may_not_ || (!file && errno == EPERM);
      if (file && is_watched(file.get(), watch_)) return file;
    }
    return UniqueFd();
  }

  // "36 35 98:0 /mnt1 /mnt2 ..." (proc_pid_mountinfo(5))
  static std::array<std::string_view, 5> first_words(std::string_view line) {
    std::array<std::string_view, 5> words{};
    for (std::string_view& word : words) {
      const std::size_t end = std::min(line.find(' '), line.size());
      word = line.substr(0, end);
      line.remove_prefix(std::min(end + 1, line.size()));
    }
    return words;
  }

  UniqueFd by_name() {
    const auto all = places();
    for (const std::string& place : all) {
      UniqueFd directory(::open(place.c_str(), O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC));
      if (!directory) continue;
      if (UniqueFd file = open_if_watched(directory.get(), ".", watch_)) return file;
      if (UniqueFd file = in_directory(std::move(directory), place == all.front() ? kLevelsBelow : 0)) return file;
    }
    return {};
  }

  // Directories to look in, the likeliest first, each once.
  [[nodiscard]] std::vector<std::string> places() const {
    std::vector<std::string> all;
    std::set<std::string> seen;
    const auto add = [&](const std::string& place) {
      if (seen.insert(place).second) all.push_back(place);
    };
    const auto add_with_parents = [&](std::string path) {
      if (!path.starts_with('/')) return;
      for (add(below_root(path)); path.size() > 1; add(below_root(path)))
        path.resize(std::max<std::size_t>(path.find_last_of('/'), 1));
    };
    std::error_code unused;
    const std::string of_task = fmt::format("/proc/{}/task/{}/", pid_.value, tid_);
    add(of_task + "cwd");
    add_with_parents(link(of_task + "cwd"));
    for (const int held : own_) add_with_parents(link(fmt::format("/proc/self/fd/{}", held)));
    const std::unique_ptr<DIR, int (*)(DIR*)> numbers(::opendir((of_task + "fd").c_str()), ::closedir);
    for (const dirent* entry = nullptr; numbers && (entry = ::readdir(numbers.get())) != nullptr;)
      add_with_parents(link(of_task + "fd/" + entry->d_name));
    for (const char* const place : kUsualPlaces) add(below_root(place));
    return all;
  }

  static std::string link(const std::string& path) {
    std::array<char, 4096> target{};
    const ssize_t size = ::readlink(path.c_str(), target.data(), target.size());
    return {target.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0))};
  }

  // What lies in a directory, and `deeper` levels below it. Closes the directory.
  UniqueFd in_directory(UniqueFd directory, int deeper) {
    const int at = directory.get();
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(at), ::closedir);
    if (stream == nullptr) return {};
    static_cast<void>(directory.release());  // the stream's from here on
    std::vector<std::string> directories;
    while (const dirent* entry = ::readdir(stream.get())) {
      if (++entries_ > kMostEntries) return {};
      const std::string_view name = entry->d_name;
      if (name == "." || name == "..") continue;
      // A mount point shows the inode that it hides, not the one that is mounted there.
      if (entry->d_ino == watch_.file.inode || entry->d_type == DT_DIR) {
        if (UniqueFd file = open_if_watched(at, entry->d_name, watch_)) return file;
      }
      if (entry->d_type == DT_DIR && deeper > 0) directories.emplace_back(name);
    }
    for (const std::string& name : directories) {
      UniqueFd below(::openat(at, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!below) continue;
      if (UniqueFd file = in_directory(std::move(below), deeper - 1)) return file;
    }
    return {};
  }

  const InotifyWatch& watch_;
  model::Pid pid_;
  pid_t tid_;
  const std::vector<int>& own_;
  bool may_not_ = false;
  std::size_t entries_ = 0;
};

}  // namespace

Result<UniqueFd> open_watched(const Watcher& watcher, const InotifyWatch& watch) {
  return Finder(watcher, watch).find();
}

}  // namespace relive::capture
