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
// the moment they are set. Where signals are queued anew, the driver's own pending ones are taken with them and queued
// again as they were.
Result<void> prepare_process(Workshop& workshop, const diff::ProcessPlan& plan, const model::Process& wanted);

}  // namespace relive::apply
