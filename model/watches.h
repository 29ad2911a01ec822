// What an inotify instance watches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/files.h"
#include "model/words.h"

namespace relive::model {

// One watch, as fdinfo tells it. The kernel remembers inodes, not paths.
struct InotifyWatch {
  std::int32_t number = 0;       // the watch descriptor, "wd"
  FileIdentity file;             // device as stat(2) gives it, but on file systems with several of them (btrfs)
  std::uint32_t mask = 0;        // IN_*
  std::int32_t handle_type = 0;  // a file handle, as name_to_handle_at(2) gives it
  std::vector<std::byte> handle;
  bool operator==(const InotifyWatch&) const = default;
};

// One event, as read(2) gives it.
struct InotifyEvent {
  std::int32_t number = 0;   // of the watch; -1: IN_Q_OVERFLOW
  std::uint32_t mask = 0;    // IN_*
  std::uint32_t cookie = 0;  // equal in the two halves of a rename, else 0
  std::string name;          // of the file in the watched directory
  bool operator==(const InotifyEvent&) const = default;
};

// inotify(7)
struct InotifySet {
  static constexpr bool kSelfContained = true;
  std::vector<InotifyWatch> watches;  // by number, ascending
  std::uint32_t unread = 0;           // bytes of events that nobody has read
  std::vector<InotifyEvent> events;   // those; in a snapshot only: looking takes them (capture/event_queue.h)
  bool operator==(const InotifySet&) const = default;
};
Words words(const InotifySet& set);
[[nodiscard]] bool same_object(const InotifySet& a, const InotifySet& b);

// Why these events cannot be queued again by doing the like to files of relive's own (capture/event_queue.h); empty
// where they can. `watches`: those of the instance.
[[nodiscard]] std::string why_not_queued_again(std::span<const InotifyEvent> events,
                                               std::span<const InotifyWatch> watches);
// The events that can be.
[[nodiscard]] std::vector<InotifyEvent> queued_again(std::span<const InotifyEvent> events,
                                                     std::span<const InotifyWatch> watches);

}  // namespace relive::model
