#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "apply/self_contained.h"
#include "apply/watched_file.h"
#include "base/fault.h"

namespace relive::apply {

namespace {

using model::InotifyWatch;
using parasite::Program;

// INOTIFY_IOC_SETNEXTWD of linux/inotify.h (Linux 4.16, with CONFIG_CHECKPOINT_RESTORE): the number that the next watch
// gets.
constexpr unsigned long kSetNextNumber = _IOW('I', 0, std::int32_t);
constexpr int kMostTries = 1 << 16;

// Numbers are given in ascending order, so that one may be reached by asking again and again.
Result<void> add(int ours, const InotifyWatch& watch, int file) {
  const std::string path = fmt::format("/proc/self/fd/{}", file);
  static_cast<void>(::ioctl(ours, kSetNextNumber, watch.number));
  for (int tries = 0; tries < kMostTries; ++tries) {
    const int given = ::inotify_add_watch(ours, path.c_str(), watch.mask);
    if (given < 0) return fail_errno("inotify_add_watch", fmt::format("watch {}", watch.number));
    if (given == watch.number) return {};
    if (given > watch.number) break;
    if (::inotify_rm_watch(ours, given) != 0) return fail_errno("inotify_rm_watch", fmt::format("watch {}", given));
  }
  return fail(ErrorKind::refused, fmt::format("this kernel does not give a watch the number {} again", watch.number),
              "INOTIFY_IOC_SETNEXTWD needs CONFIG_CHECKPOINT_RESTORE");
}

// What adding and removing has queued.
Result<void> forget_events(int ours) {
  std::array<std::byte, 4096> events{};
  for (int unread = 0;;) {
    if (::ioctl(ours, FIONREAD, &unread) != 0) return fail_errno("ioctl FIONREAD", "an inotify instance");
    if (unread == 0) return {};
    if (::read(ours, events.data(), events.size()) < 0) return fail_errno("read", "an inotify instance");
  }
}

}  // namespace

Result<void> make(FileMaker& maker, std::size_t file, const model::InotifySet& wanted) {
  RELIVE_TRY(maker.make_one(file, "inotify instance", SYS_inotify_init1, {IN_CLOEXEC, 0, 0}));
  if (wanted.watches.empty()) return {};
  RELIVE_TRY(fault_point("inotify watches"));
  const UniqueFd ours = RELIVE_TRY(maker.borrow(file));
  for (const InotifyWatch& watch : wanted.watches) {
    const UniqueFd target = RELIVE_TRY(open_watched(maker.workshop(), watch));
    RELIVE_TRY(add(ours.get(), watch, target.get()));
  }
  return forget_events(ours.get());
}

Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t flags, const model::InotifySet& wanted,
                       const model::InotifySet& living) {
  for (const InotifyWatch& watch : living.watches) {
    if (std::ranges::binary_search(wanted.watches, watch.number, {}, &InotifyWatch::number)) continue;
    // It goes by itself where its file is deleted meanwhile.
    maker.workshop().commit.syscall(fmt::format("inotify_rm_watch {} {}", fd.value, watch.number), SYS_inotify_rm_watch,
                                    {FileMaker::number(fd), static_cast<std::uint64_t>(watch.number)},
                                    Program::OnError::go_on);
  }
  return maker.drain(fd, flags);
}

}  // namespace relive::apply
