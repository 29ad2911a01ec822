// What an inotify instance watches.
#pragma once

#include <cstddef>
#include <cstdint>
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

// inotify(7)
struct InotifySet {
  static constexpr bool kSelfContained = true;
  std::vector<InotifyWatch> watches;  // by number, ascending
  std::uint32_t unread = 0;           // bytes of events that nobody has read
  bool operator==(const InotifySet&) const = default;
};
Words words(const InotifySet& set);
[[nodiscard]] bool same_object(const InotifySet& a, const InotifySet& b);

}  // namespace relive::model
