#include <fcntl.h>
#include <fmt/format.h>
#include <sys/sysmacros.h>

#include "capture/memory_file.h"
#include "capture/opened.h"

namespace relive::capture {

namespace {

bool is_terminal(std::uint64_t device) {
  const auto number = major(device);
  return number == 4 || number == 5 || (number >= 136 && number <= 143);  // devices.txt
}

model::FileIdentity identity_of(const struct stat& status) { return {.device = status.st_dev, .inode = status.st_ino}; }

}  // namespace

Result<model::FileObject> read_regular(const Opened& opened) {
  if (is_message_queue(opened)) return read_message_queue(opened);
  if (is_huge_page_file(opened.ours))
    return model::FileObject(model::UnhandledFile{fmt::format("huge-page file ({})", opened.link)});
  std::optional<model::MemoryFile> memory;
  if (opened.link.starts_with("/memfd:")) memory = RELIVE_TRY(read_memory_file(opened.ours));
  return model::FileObject(model::RegularFile{.path = opened.link,
                                              .identity = identity_of(opened.status),
                                              .directory = S_ISDIR(opened.status.st_mode),
                                              .deleted = opened.status.st_nlink == 0,
                                              .position = opened.position,
                                              .memory = memory});
}

Result<model::FileObject> read_reference(const Opened& opened) {
  return model::FileObject(model::RegularFile{.path = opened.link,
                                              .identity = identity_of(opened.status),
                                              .directory = S_ISDIR(opened.status.st_mode),
                                              .deleted = opened.status.st_nlink == 0});
}

Result<model::FileObject> read_device(const Opened& opened) {
  const bool memory = major(opened.status.st_rdev) == 1;
  const bool terminal = is_terminal(opened.status.st_rdev);
  if (terminal && (opened.flags & O_PATH) == 0) return read_terminal(opened);
  const bool tunnel = major(opened.status.st_rdev) == 10 && minor(opened.status.st_rdev) == 200;  // devices.txt
  if (tunnel && (opened.flags & O_PATH) == 0) return read_tunnel(opened);
  if (!memory && !terminal) return model::FileObject(model::UnhandledFile{fmt::format("device ({})", opened.link)});
  return model::FileObject(model::DeviceFile{.path = opened.link,
                                             .identity = identity_of(opened.status),
                                             .device_number = opened.status.st_rdev,
                                             .position = opened.position});
}

}  // namespace relive::capture
