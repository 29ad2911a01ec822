#include "files/place.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace relive::files {

std::string Place::through_proc() const { return fmt::format("/proc/self/fd/{}/{}", directory, name); }

Result<UniqueFd> open_quietly(int directory, const std::string& name, int flags) {
  UniqueFd fd(::openat(directory, name.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NOATIME));
  if (!fd && errno == EPERM) fd.reset(::openat(directory, name.c_str(), flags | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return fail_errno("open", name);
  return fd;
}

void Paths::forget() {
  parent_.clear();
  parent_fd_.reset();
}

Result<Place> Paths::place(std::string_view path) {
  if (path.empty()) return Place{top_, "."};
  const auto slash = path.rfind('/');
  if (slash == std::string_view::npos) return Place{top_, std::string(path)};
  const std::string_view parent = path.substr(0, slash);
  if (!parent_fd_ || parent != parent_) {
    open_how how{};
    how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
    parent_ = parent;
    parent_fd_.reset(static_cast<int>(::syscall(SYS_openat2, top_, parent_.c_str(), &how, sizeof how)));
    if (!parent_fd_) return fail_errno("open directory", parent_);
  }
  return Place{parent_fd_.get(), std::string(path.substr(slash + 1))};
}

Result<UniqueFd> Paths::open_file(std::string_view path, bool to_write) {
  const Place at = RELIVE_TRY(place(path));
  // Not blocking: a fifo in its place would wait for a peer.
  return with_context(open_quietly(at.directory, at.name, (to_write ? O_RDWR : O_RDONLY) | O_NONBLOCK), path);
}

}  // namespace relive::files
