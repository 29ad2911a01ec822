// A living or wanted task: the value that capture produces, a snapshot stores and diff compares.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/ids.h"
#include "model/memory.h"
#include "model/process.h"
#include "model/thread.h"

namespace relive::model {

struct Task {
  Pid pid;
  std::uint64_t start_time = 0;  // clock ticks since boot, field 22 of /proc/PID/stat: tells a reused pid
  Process process;
  std::vector<Thread> threads;  // leader first, then by tid
  Memory memory;
  std::size_t table = 0;  // its descriptor table: RemoteFd::table of the tree's descriptors (model/tree.h)
};

}  // namespace relive::model
