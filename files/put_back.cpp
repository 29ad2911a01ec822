#include "files/put_back.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <set>
#include <string>

#include "base/fault.h"
#include "files/contents.h"
#include "files/labels.h"
#include "files/scan.h"

namespace relive::files {

namespace {

constexpr mode_t kWhileMaking = 0700;  // the right mode comes with the attributes
constexpr mode_t kForFiles = 0600;

std::string_view name_of(Act act) {
  switch (act) {
    case Act::unlink:
      return "files: remove a name";
    case Act::set_aside:
      return "files: set a directory aside";
    case Act::remove_directory:
      return "files: remove a directory";
    case Act::make_directory:
      return "files: make a directory";
    case Act::place:
      return "files: move a directory back";
    case Act::link:
      return "files: link a name to its inode";
    case Act::make:
      return "files: make a file";
    case Act::contents:
      return "files: write contents";
    case Act::attributes:
      return "files: set attributes";
  }
  return "files";
}

timespec spec(const Time& time) {
  return {.tv_sec = time.seconds, .tv_nsec = static_cast<decltype(timespec::tv_nsec)>(time.nanoseconds)};
}

// Itself, whatever it is; never what a symbolic link leads to.
Result<UniqueFd> itself(const Place& place) {
  UniqueFd fd(::openat(place.directory, place.name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return fail_errno("open", place.name);
  return fd;
}

Result<void> set_mode(const UniqueFd& fd, mode_t mode, const std::string& name) {
  if (::chmod(fmt::format("/proc/self/fd/{}", fd.get()).c_str(), mode) != 0) return fail_errno("chmod", name);
  return {};
}

class Executor {
 public:
  Executor(Paths& paths, Store& store, const Tree& saved) : paths_(paths), store_(store), saved_(saved) {}

  Result<void> take(const Step& step) {
    RELIVE_TRY(fault_point(name_of(step.act)));
    const Place at = RELIVE_TRY(paths_.place(step.path));
    const Node& node = saved_.nodes[step.node];
    switch (step.act) {
      case Act::unlink:
        changed_.insert(step.path);
        return removed(::unlinkat(at.directory, at.name.c_str(), 0), step.path);
      case Act::remove_directory: {
        changed_.insert(step.path);
        auto done = removed(::unlinkat(at.directory, at.name.c_str(), AT_REMOVEDIR), step.path);
        paths_.forget();
        return done;
      }
      case Act::set_aside:
        return move(at.directory, at.name, paths_.top(), name_aside(node), step.path);
      case Act::place:
        changed_.insert(step.path);
        return move(paths_.top(), name_aside(node), at.directory, at.name, step.path);
      case Act::make_directory:
        changed_.insert(step.path);
        if (::mkdirat(at.directory, at.name.c_str(), kWhileMaking) != 0) return fail_errno("mkdir", step.path);
        return {};
      case Act::link:
        changed_.insert(step.path);
        return link(step, at, node);
      case Act::make:
        changed_.insert(step.path);
        return make(at, node, step.path);
      case Act::contents: {
        const std::uint64_t bytes = RELIVE_TRY(with_context(contents(step, at, node), step.path));
        if (bytes != 0) changed_.insert(step.path);
        done_.bytes += bytes;
        return {};
      }
      case Act::attributes:
        if (RELIVE_TRY(with_context(put_back_attributes(at, node), step.path)) && node.kind != Kind::directory)
          changed_.insert(step.path);
        return {};
    }
    return {};
  }

  [[nodiscard]] Done done() const { return {.files = changed_.size(), .bytes = done_.bytes}; }

 private:
  static Result<void> removed(int result, const std::string& path) {
    if (result != 0 && errno != ENOENT) return fail_errno("remove", path);
    return {};
  }

  // What has the open directory in it, or is above it, has another path then.
  Result<void> move(int from, const std::string& name, int to, const std::string& new_name, const std::string& path) {
    const int result = ::renameat(from, name.c_str(), to, new_name.c_str());
    const int error_number = errno;
    paths_.forget();
    if (result != 0) return fail_errno("rename", path, error_number);
    return {};
  }
  static std::string name_aside(const Node& node) { return fmt::format(".relive-aside-{:x}", node.inode); }

  Result<void> link(const Step& step, const Place& at, const Node& node) {
    if (step.from.empty()) {
      auto linked = store_.give_link(node.inode, at.directory, at.name);
      // A socket that goes back has bound its name itself.
      if (!linked && linked.error().errno_value == EEXIST && node.kind == Kind::socket) return {};
      return linked;
    }
    const UniqueFd directory(::fcntl(at.directory, F_DUPFD_CLOEXEC, 0));
    if (!directory) return fail_errno("dup", step.path);
    const Place from = RELIVE_TRY(paths_.place(step.from));
    if (::linkat(from.directory, from.name.c_str(), directory.get(), at.name.c_str(), 0) != 0)
      return fail_errno("link", step.path);
    return {};
  }

  static Result<void> make(const Place& at, const Node& node, const std::string& path) {
    int result = 0;
    switch (node.kind) {
      case Kind::regular: {
        const UniqueFd fd(
            ::openat(at.directory, at.name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, kForFiles));
        result = fd ? 0 : -1;
        break;
      }
      case Kind::symlink:
        result = ::symlinkat(node.target.c_str(), at.directory, at.name.c_str());
        break;
      case Kind::fifo:
        result = ::mkfifoat(at.directory, at.name.c_str(), kForFiles);
        break;
      case Kind::directory:
      case Kind::socket:
      case Kind::device:
        return fail(ErrorKind::refused, path + " cannot be made again");
    }
    if (result != 0) return fail_errno("make", path);
    return {};
  }

  // A file that its owner may not write is made writable for the moment.
  Result<UniqueFd> open_to_write(const std::string& path, const Place& at) {
    auto fd = paths_.open_file(path, true);
    if (fd || fd.error().errno_value != EACCES) return fd;
    const UniqueFd reference = RELIVE_TRY(itself(at));
    RELIVE_TRY(set_mode(reference, kForFiles, path));
    return paths_.open_file(path, true);
  }

  Result<std::uint64_t> contents(const Step& step, const Place& at, const Node& node) {
    const UniqueFd living = RELIVE_TRY(open_to_write(step.path, at));
    struct stat seen{};
    if (::fstat(living.get(), &seen) != 0) return fail_errno("fstat", step.path);
    if (!S_ISREG(seen.st_mode)) return fail(ErrorKind::busy, step.path + " is no file any more");
    if (node.copy != 0) {
      const UniqueFd copy = RELIVE_TRY(store_.open_copy(node.copy));
      return put_back_contents(living.get(), copy.get(), step.path);
    }
    if (seen.st_size == 0) return 0U;
    if (::ftruncate(living.get(), 0) != 0) return fail_errno("ftruncate", step.path);
    changed_.insert(step.path);
    return 0U;
  }

  Paths& paths_;
  Store& store_;
  const Tree& saved_;
  Done done_;
  std::set<std::string> changed_;
};

}  // namespace

Result<bool> put_back_attributes(const Place& place, const Node& node) {
  const UniqueFd fd = RELIVE_TRY(itself(place));
  struct stat seen{};
  if (::fstat(fd.get(), &seen) != 0) return fail_errno("fstat", place.name);
  bool set = false;
  if (seen.st_uid != node.user || seen.st_gid != node.group) {
    if (::fchownat(fd.get(), "", node.user, node.group, AT_EMPTY_PATH) != 0) return fail_errno("chown", place.name);
    set = true;
  }
  // Behind the owner: a change of owner takes capabilities away. Before the mode: an ACL carries it.
  set = RELIVE_TRY(write_labels(place, node.labels)) || set;
  if (set && ::fstat(fd.get(), &seen) != 0) return fail_errno("fstat", place.name);
  if (node.kind != Kind::symlink && (seen.st_mode & 07777U) != node.mode) {
    RELIVE_TRY(set_mode(fd, node.mode, place.name));
    set = true;
  }
  const std::array<timespec, 2> times{spec(node.accessed), spec(node.modified)};
  const bool same = seen.st_atim.tv_sec == times[0].tv_sec && seen.st_atim.tv_nsec == times[0].tv_nsec &&
                    seen.st_mtim.tv_sec == times[1].tv_sec && seen.st_mtim.tv_nsec == times[1].tv_nsec;
  if (!same) {
    // utimensat(2): AT_EMPTY_PATH since Linux 5.8.
    if (::utimensat(fd.get(), "", times.data(), AT_EMPTY_PATH) != 0) return fail_errno("utimensat", place.name);
    set = true;
  }
  return set;
}

Result<Done> carry_out(Paths& paths, Store& store, const Tree& saved, const Work& work) {
  Executor executor(paths, store, saved);
  paths.forget();
  for (const Step& step : work.steps) RELIVE_TRY(executor.take(step));
  paths.forget();
  return executor.done();
}

}  // namespace relive::files
