#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "apply/self_contained.h"
#include "task/process_identity.h"

namespace relive::apply {

// Made here and given to the task, whose pid namespace may number processes otherwise.
Result<void> make(FileMaker& maker, std::size_t file, const model::ProcessHandle& wanted) {
  const UniqueFd ours(static_cast<int>(::syscall(SYS_pidfd_open, wanted.pid, wanted.thread ? task::kPidfdThread : 0U)));
  if (!ours && errno != ESRCH && errno != EINVAL && errno != ENOENT)
    return fail_errno("pidfd_open", std::to_string(wanted.pid));
  const bool same =
      ours && (wanted.own || task::process_identity(ours.get(), model::Pid{wanted.pid}) == wanted.identity);
  if (!same) {
    return fail(ErrorKind::refused,
                fmt::format("the pidfd was closed since, and process {} has ended since", wanted.pid));
  }
  return maker.give(file, ours.get());
}

Result<void> put_right(FileMaker& /*maker*/, model::RemoteFd /*fd*/, std::uint32_t /*flags*/,
                       const model::ProcessHandle& /*wanted*/, const model::ProcessHandle& /*living*/) {
  return {};
}

}  // namespace relive::apply
