#include <fcntl.h>
#include <fmt/format.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>

#include "capture/fdinfo.h"
#include "capture/opened.h"

namespace relive::capture {

namespace {

constexpr off_t kStatusBytes = 80;   // FILENT_SIZE of ipc/mqueue.c: the size of every message queue's file
constexpr long kMagic = 0x19800202;  // MQUEUE_MAGIC of linux/magic.h

// Through an open file of our own: the task's may be open for writing only.
Result<std::string> read_status(int ours, const std::string& path) {
  const UniqueFd own(::open(fmt::format("/proc/self/fd/{}", ours).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!own) return fail_errno("open", path);
  std::array<char, kStatusBytes + 1> text{};
  const ssize_t size = ::read(own.get(), text.data(), text.size());
  if (size < 0) return fail_errno("read", path);
  return std::string(text.data(), static_cast<std::size_t>(size));
}

}  // namespace

bool is_message_queue(const Opened& opened) {
  struct statfs system{};
  return opened.status.st_size == kStatusBytes && (opened.flags & O_PATH) == 0 &&
         ::fstatfs(opened.ours, &system) == 0 && system.f_type == kMagic;
}

Result<model::FileObject> read_message_queue(const Opened& opened) {
  auto status = read_status(opened.ours, opened.link);
  if (!status) {
    if (status.error().kind != ErrorKind::permission) return std::unexpected(std::move(status).error());
    return model::FileObject(model::UnhandledFile{fmt::format("message queue that may not be read ({})", opened.link)});
  }
  model::MessageQueue queue{.path = opened.link,
                            .identity = {.device = opened.status.st_dev, .inode = opened.status.st_ino},
                            .position = opened.position};
  const std::uint64_t notified = parse_notified_task(*status);
  for (std::size_t table = 0; table < opened.tables.size(); ++table) {
    const task::FrozenTask* const task = opened.tables[table].task;
    if (task == nullptr || static_cast<std::uint64_t>(task->pid().value) != notified) continue;
    queue.notifies = true;
    queue.notified = static_cast<int>(table);
  }
  return model::FileObject(std::move(queue));
}

std::uint64_t parse_notified_task(std::string_view status) {
  return number_in(word_after(status, "NOTIFY_PID:").value_or(""), 10);
}

}  // namespace relive::capture
