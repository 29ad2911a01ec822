// Reading /proc. Parsers elsewhere take text; this is the one place that opens the files.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"
#include "model/ids.h"

namespace relive::task {

// The whole of /proc/PID/NAME (NAME may hold slashes: "task/12/status"). ErrorKind::task_died where the task is gone.
Result<std::string> read_proc(model::Pid pid, std::string_view name);
// The whole of an open file of /proc, from its position on; `path` is what errors name.
Result<std::string> read_whole(int fd, const std::string& path);
// The target of a link below /proc/PID.
Result<std::string> read_proc_link(model::Pid pid, std::string_view name);
// Writes `text` to /proc/PID/NAME.
Result<void> write_proc(model::Pid pid, std::string_view name, std::string_view text);
// Opens /proc/PID/NAME with the open(2) flags given; O_CLOEXEC is added.
Result<UniqueFd> open_proc(model::Pid pid, std::string_view name, int flags);

// The value of "Name:\tvalue" in the text of a status file, without the white space around it; empty if not there.
std::string_view status_field(std::string_view status, std::string_view name);

// Field `number` (counted from 1 as in proc(5)) of the text of a stat file; survives parentheses in the name.
Result<std::string_view> stat_field(std::string_view stat, int number);

}  // namespace relive::task
