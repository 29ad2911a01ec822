#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "apply/self_contained.h"
#include "base/fault.h"
#include "capture/event_queue.h"

namespace relive::apply {

namespace {

using model::InotifyWatch;
using parasite::Program;

capture::Watcher watcher_of(const Workshop& workshop) {
  capture::Watcher watcher{.pid = workshop.visit.task().pid(), .thread = workshop.visit.driver(), .own = {}};
  for (const auto& [index, held] : workshop.files.open_files) watcher.own.push_back(held.get());
  if (workshop.holds.cwd) watcher.own.push_back(workshop.holds.cwd.get());
  return watcher;
}

}  // namespace

Result<void> make(FileMaker& maker, std::size_t file, const model::InotifySet& wanted) {
  RELIVE_TRY(maker.make_one(file, "inotify instance", SYS_inotify_init1, {IN_CLOEXEC, 0, 0}));
  if (wanted.watches.empty() && wanted.events.empty()) return {};
  RELIVE_TRY(fault_point("inotify watches"));
  const UniqueFd ours = RELIVE_TRY(maker.borrow(file));
  const capture::Watcher watcher = watcher_of(maker.workshop());
  std::vector<UniqueFd> targets;
  std::vector<int> numbers;
  for (const InotifyWatch& watch : wanted.watches) {
    targets.push_back(RELIVE_TRY(capture::open_watched(watcher, watch)));
    numbers.push_back(targets.back().get());
  }
  return capture::queue_events(ours.get(), wanted.events, wanted.watches, numbers);
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
