#include "apply/epoll.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

namespace relive::apply {

namespace {

// REQUIRES: runs in a thread with a table of its own, which goes with the thread.
Result<void> watch_here(int set, int file, int number, epoll_event event) {
  if (::unshare(CLONE_FILES) != 0) return fail_errno("unshare", "CLONE_FILES");
  const int above = ::fcntl(set, F_DUPFD_CLOEXEC, number + 1);
  if (above < 0 || (file != number && ::dup3(file, number, O_CLOEXEC) < 0)) {
    if (errno == EBADF || errno == EINVAL || errno == EMFILE)
      return fail(ErrorKind::refused, fmt::format("an epoll set watched a file as {}, and RLIMIT_NOFILE of relive is "
                                                  "lower",
                                                  number));
    return fail_errno("dup3", "a descriptor of relive's own");
  }
  if (::epoll_ctl(above, EPOLL_CTL_ADD, number, &event) != 0)
    return fail_errno("epoll_ctl", fmt::format("ADD {}", number));
  return {};
}

}  // namespace

Result<void> watch_by_number(int set, int file, int number, const epoll_event& event) {
  Result<void> done;
  std::thread([&] { done = watch_here(set, file, number, event); }).join();
  return done;
}

}  // namespace relive::apply
