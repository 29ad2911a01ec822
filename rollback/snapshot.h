// A snapshot: the image of a task in memory, together with its warm part.
#pragma once

#include "capture/holds.h"
#include "model/descriptor.h"
#include "model/task.h"
#include "rollback/engine.h"
#include "tracking/page_map.h"

namespace relive::rollback {

struct Snapshot {
  SnapshotInfo info;
  model::Task task;
  model::DescriptorTable descriptors;
  tracking::PageMap pages;  // contents, in the engine's page store
  capture::Holds holds;
  capture::FileHolds files;
};

}  // namespace relive::rollback
