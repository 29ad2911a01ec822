// Reading what belongs to a task as a whole, in one run of the parasite and a few files of /proc.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "capture/holds.h"
#include "model/process.h"
#include "parasite/session.h"

namespace relive::capture {

// Signal actions, signals pending for the task, timers, limits, directories and attributes. Changes nothing in the
// task. ErrorKind::refused, by name, where the task as a whole has more than one of something: a thread with a
// directory or a descriptor table of its own (unshare(2)).
Result<model::Process> read_process(parasite::Visit& visit);

// /proc/PID/oom_score_adj.
Result<std::int32_t> read_oom_adjustment(model::Pid pid);

// Opens the task's working and root directory for the snapshot (O_PATH), so that they can be gone back to when their
// names are gone.
Result<void> hold_directories(parasite::Visit& visit, Holds& holds);

}  // namespace relive::capture
