#include "model/watches.h"

#include <fmt/format.h>
#include <sys/inotify.h>

#include <algorithm>

namespace relive::model {

namespace {

// What a file, a directory and what lies in one can be made to report.
constexpr std::uint32_t kOfFiles = IN_ACCESS | IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_CLOSE_NOWRITE | IN_OPEN |
                                   IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_MOVE_SELF;
constexpr std::uint32_t kOfDirectories = kOfFiles & ~std::uint32_t{IN_MODIFY | IN_CLOSE_WRITE};
constexpr std::uint32_t kInDirectories = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO;

std::string why_not(std::span<const InotifyEvent> events, std::size_t at, bool told_of_departures) {
  const InotifyEvent& event = events[at];
  const InotifyEvent* const before = at > 0 ? &events[at - 1] : nullptr;
  const InotifyEvent* const next = at + 1 < events.size() ? &events[at + 1] : nullptr;
  const std::uint32_t kind = event.mask & ~std::uint32_t{IN_ISDIR};
  constexpr std::size_t kLongestName = 255;
  if (event.name.find('/') != std::string::npos || event.name == "." || event.name == ".." ||
      event.name.size() > kLongestName || (event.number <= 0 && kind != IN_Q_OVERFLOW))
    return "there is no such event";
  if (kind == IN_Q_OVERFLOW) {
    return next == nullptr ? "" : "events were lost (IN_Q_OVERFLOW) before others were queued";
  }
  if (kind == IN_IGNORED) return {};
  if (kind == IN_UNMOUNT) return "a file system was unmounted";
  if (kind == IN_DELETE_SELF) {
    const bool ends = next != nullptr && next->number == event.number && next->mask == IN_IGNORED;
    return ends ? "" : "the end of a watched file (IN_DELETE_SELF) does not stand right before that of its watch";
  }
  // The kernel gives the two halves of a rename a number that nobody can ask for. As long as the program has seen
  // neither half another one is as good.
  if (kind == IN_MOVED_FROM) return {};
  if (kind == IN_MOVED_TO && told_of_departures &&
      (before == nullptr || before->mask != (event.mask ^ IN_MOVED_TO ^ IN_MOVED_FROM) ||
       before->cookie != event.cookie))
    return "the other half of a rename (IN_MOVED_FROM) does not stand right before this one: it may have been read";
  const bool one = kind != 0 && (kind & (kind - 1)) == 0;
  const std::uint32_t known = (event.mask & IN_ISDIR) != 0 ? kOfDirectories : kOfFiles;
  if (!one || (kind & known) == 0 || ((kind & kInDirectories) != 0) > !event.name.empty())
    return fmt::format("relive does not know how to cause an event of the kind {:#x}", event.mask);
  return {};
}

bool told_of_departures(std::span<const InotifyWatch> watches) {
  return std::ranges::any_of(watches, [](const InotifyWatch& watch) { return (watch.mask & IN_MOVED_FROM) != 0; });
}

}  // namespace

std::string why_not_queued_again(std::span<const InotifyEvent> events, std::span<const InotifyWatch> watches) {
  for (std::size_t at = 0; at < events.size(); ++at)
    if (std::string reason = why_not(events, at, told_of_departures(watches)); !reason.empty()) return reason;
  return {};
}

std::vector<InotifyEvent> queued_again(std::span<const InotifyEvent> events, std::span<const InotifyWatch> watches) {
  std::vector<InotifyEvent> all;
  for (std::size_t at = 0; at < events.size(); ++at)
    if (why_not(events, at, told_of_departures(watches)).empty()) all.push_back(events[at]);
  return all;
}

Words words(const InotifySet& set) {
  return {.kind = "inotify instance", .detail = fmt::format("watches {}", set.watches.size()), .phrase = {}};
}
// The kernel gives it no identity.
bool same_object(const InotifySet& /*a*/, const InotifySet& /*b*/) { return false; }

}  // namespace relive::model
