#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>

#include "capture/fdinfo.h"
#include "capture/opened.h"
#include "task/process_identity.h"
#include "task/procfs.h"

namespace relive::capture {

Result<model::FileObject> read_process_handle(const Opened& opened) {
  model::ProcessHandle handle = RELIVE_TRY(parse_process_handle(RELIVE_TRY(opened.fdinfo())));
  handle.thread = (opened.flags & task::kPidfdThread) != 0;
  handle.identity = task::process_identity(opened.ours, model::Pid{handle.pid});
  handle.own = std::ranges::any_of(opened.table.task->threads(),
                                   [&](const auto& thread) { return thread.tid.value == handle.pid; });
  return model::FileObject(handle);
}

Result<model::ProcessHandle> parse_process_handle(std::string_view fdinfo) {
  const auto pid = word_after(fdinfo, "\nPid:");
  if (!pid) return fail(ErrorKind::system, "fdinfo of a pidfd tells no process");
  model::ProcessHandle handle;
  handle.pid = *pid == "-1" ? -1 : static_cast<std::int32_t>(number_in(*pid, 10));
  return handle;
}

}  // namespace relive::capture
