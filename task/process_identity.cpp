#include "task/process_identity.h"

#include <sys/stat.h>
#include <sys/vfs.h>

#include <charconv>
#include <string>
#include <string_view>

#include "task/procfs.h"

namespace relive::task {

namespace {

constexpr auto kPidfs = 0x50494446;  // PID_FS_MAGIC of linux/magic.h (Linux 6.9)
constexpr int kStartTime = 22;       // the field's number in proc_pid_stat(5), from 1

std::uint64_t start_time(model::Pid pid) {
  const auto text = read_proc(pid, "stat");
  if (!text) return 0;
  // The second field is a name in brackets, which may hold anything.
  std::size_t at = std::min(text->rfind(')'), text->size());
  for (int field = 2; field < kStartTime && at != std::string::npos; ++field) at = text->find(' ', at + 1);
  std::uint64_t value = 0;
  if (at < text->size()) std::from_chars(text->data() + at + 1, text->data() + text->size(), value);
  return value;
}

}  // namespace

std::uint64_t process_identity(int pidfd, model::Pid pid) {
  struct statfs system{};
  struct stat status{};
  if (::fstatfs(pidfd, &system) == 0 && system.f_type == kPidfs && ::fstat(pidfd, &status) == 0) return status.st_ino;
  return pid.value > 0 ? start_time(pid) : 0;
}

}  // namespace relive::task
