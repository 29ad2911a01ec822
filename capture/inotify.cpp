#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "capture/fdinfo.h"
#include "capture/opened.h"

namespace relive::capture {

namespace {

// The kernel's own device number: 20 bits of minor (MINORBITS of linux/kdev_t.h).
std::uint64_t device_of(std::uint64_t kernel) {
  return makedev(static_cast<unsigned>(kernel >> 20U), static_cast<unsigned>(kernel & 0xfffffU));
}

std::vector<std::byte> bytes_of_hex(std::string_view hex) {
  std::vector<std::byte> bytes;
  for (std::size_t at = 0; at + 1 < hex.size(); at += 2)
    bytes.push_back(static_cast<std::byte>(number_in(hex.substr(at, 2), 16)));
  return bytes;
}

}  // namespace

Result<model::FileObject> read_inotify(const Opened& opened) {
  model::InotifySet set = RELIVE_TRY(parse_inotify(RELIVE_TRY(opened.fdinfo())));
  int unread = 0;
  if (::ioctl(opened.ours, FIONREAD, &unread) != 0) return fail_errno("ioctl FIONREAD", opened.link);
  set.unread = static_cast<std::uint32_t>(unread);
  return model::FileObject(std::move(set));
}

Result<model::InotifySet> parse_inotify(std::string_view fdinfo) {
  model::InotifySet set;
  while (!fdinfo.empty()) {
    const std::string_view line = take_line(fdinfo);
    if (!line.starts_with("inotify ")) continue;
    const auto number = word_after(line, "wd:");
    const auto inode = word_after(line, "ino:");
    const auto device = word_after(line, "sdev:");
    const auto mask = word_after(line, " mask:");
    const auto type = word_after(line, "fhandle-type:");
    const auto handle = word_after(line, "f_handle:");
    if (!number || !inode || !device || !mask)
      return fail(ErrorKind::system, fmt::format("fdinfo of an inotify instance: '{}'", line));
    set.watches.push_back({.number = static_cast<std::int32_t>(number_in(*number, 16)),
                           .file = {.device = device_of(number_in(*device, 16)), .inode = number_in(*inode, 16)},
                           .mask = static_cast<std::uint32_t>(number_in(*mask, 16)),
                           .handle_type = type ? static_cast<std::int32_t>(number_in(*type, 16)) : 0,
                           .handle = handle ? bytes_of_hex(*handle) : std::vector<std::byte>{}});
  }
  std::ranges::sort(set.watches, {}, &model::InotifyWatch::number);
  return set;
}

}  // namespace relive::capture
