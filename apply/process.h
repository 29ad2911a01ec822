// Carrying out what diff/process.h planned.
#pragma once

#include "apply/workshop.h"
#include "base/result.h"
#include "diff/process.h"
#include "model/process.h"

namespace relive::apply {

// To be called before any other executor: lifts limits that the snapshot had higher, so that the others have the room
// they had then. Recorded in the undo log; prepare_process sets them exactly, last.
Result<void> raise_limits(Workshop& workshop, const diff::ProcessPlan& plan);

// To be called after all other executors, threads too: timers name threads, limits come down last, and timers run from
// the moment they are set.
Result<void> prepare_process(Workshop& workshop, const diff::ProcessPlan& plan, const model::Process& wanted);

// Does the commit program take the driver's own pending signals away together with the task's (a thread takes its own
// first)? thread_goals() queues them again then.
[[nodiscard]] bool takes_driver_signals(const diff::ProcessPlan& plan);

}  // namespace relive::apply
