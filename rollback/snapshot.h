// A snapshot: the image of a task in memory, together with its warm part.
#pragma once

#include "capture/holds.h"
#include "model/task.h"
#include "rollback/engine.h"
#include "tracking/page_map.h"

namespace relive::rollback {

struct Snapshot {
  SnapshotInfo info;
  model::Task task;
  tracking::PageMap pages;  // contents, in the engine's page store
  capture::Holds holds;
};

}  // namespace relive::rollback
