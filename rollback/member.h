// One living task of a tree, with what relive has in it from its first snapshot to the last drop.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/ids.h"
#include "model/memory.h"
#include "parasite/session.h"
#include "rollback/rest.h"
#include "tracking/page_map.h"
#include "tracking/page_store.h"
#include "tracking/tracker.h"

namespace relive::rollback {

// An address space that was read before, and the maps text that belongs to it: where the text is the same, nothing is
// parsed; where it is not, marks are carried over (capture/memory.h).
struct KnownMemory {
  model::Memory memory;
  std::string maps_text;
};

struct Member {
  model::Pid pid;
  std::uint64_t start_time = 0;                                    // of the task that `session` is in; 0: it has none
  std::optional<parasite::Session> session;                        // the parasite; it goes with its task
  std::unique_ptr<tracking::Tracker> tracker;                      // the same
  std::optional<tracking::PageStore> store;                        // stays when the task ends: snapshots need it
  std::map<std::uint64_t, std::vector<tracking::PageRun>> leases;  // pages in it that somebody else reads
  tracking::PageMap current;  // what is in place, but for what the tracker calls changed
  std::optional<Rest> rest;   // how the task was let go, if it need not be looked at while it rests
  KnownMemory last_memory;    // what is mapped, as far as relive knows since it last let the task go
  std::size_t snapshots = 0;  // that this task is part of

  // `current` becomes `map`; the store counts users of slots.
  void set_current(const tracking::PageMap& map);
  // Its task has ended, or is another one: nothing of relive's is in it any more.
  void forget_task();
};

}  // namespace relive::rollback
