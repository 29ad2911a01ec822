// The living task as one value: capture of every family, in the order in which they are cheap.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "capture/holds.h"
#include "capture/threads.h"
#include "model/descriptor.h"
#include "model/task.h"
#include "parasite/session.h"
#include "rollback/stopwatch.h"

namespace relive::rollback {

// An address space that was read before, and the maps text that belongs to it: where the text is the same, nothing is
// parsed; where it is not, marks are carried over (capture/memory.h).
struct KnownMemory {
  model::Memory memory;
  std::string maps_text;
};

// Reads the visited task, but for its descriptors.
// `maps_text`: /proc/PID/maps as it is now; used where `known` is given.
// ErrorKind::refused, by name, for what no family can describe.
Result<model::Task> read_task(parasite::Visit& visit, const KnownMemory* known, std::string_view maps_text,
                              capture::Depth depth, Stopwatch& stopwatch);

// Reads its descriptors. With a snapshot's and their holds they say which of the snapshot's files still live.
Result<model::DescriptorTable> read_descriptors(parasite::Visit& visit, const model::DescriptorTable* snapshot,
                                                const capture::FileHolds* holds, Stopwatch& stopwatch);

// ErrorKind::refused, by name, for a task that has children at the snapshot: this release rolls back one process. Those
// born since are diff's to refuse (diff/process.h).
Result<void> refuse_children(const model::Task& task);

}  // namespace relive::rollback
