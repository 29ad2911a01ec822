#include "task/process_identity.h"

#include <sys/stat.h>
#include <sys/vfs.h>

#include <string>

#include "task/procfs.h"
#include "task/stat_text.h"

namespace relive::task {

namespace {

constexpr auto kPidfs = 0x50494446;  // PID_FS_MAGIC of linux/magic.h (Linux 6.9)

}  // namespace

std::uint64_t process_identity(int pidfd, model::Pid pid) {
  struct statfs system{};
  struct stat status{};
  if (::fstatfs(pidfd, &system) == 0 && system.f_type == kPidfs && ::fstat(pidfd, &status) == 0) return status.st_ino;
  const auto stat = pid.value > 0 ? read_proc(pid, "stat") : std::string();
  return stat ? start_time(*stat).value_or(0) : 0;
}

}  // namespace relive::task
