// A snapshot: the image of a tree in memory, together with its warm part.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "capture/holds.h"
#include "model/forest.h"
#include "model/tree.h"
#include "rollback/engine.h"
#include "tracking/page_map.h"

namespace relive::rollback {

struct TaskPart {
  tracking::PageMap pages;       // contents, in the member's page store
  tracking::Ranges not_its_own;  // shared memory that an earlier task of the tree puts back
  capture::Holds holds;
  bool can_rest = false;  // rest.h
};

struct Snapshot {
  SnapshotInfo info;
  std::uint64_t number = 0;  // no other of this tree has it
  model::Tree tree;
  model::Forest forest;         // the same tasks, and zombies
  std::vector<TaskPart> parts;  // as tree.tasks
  capture::FileHolds files;     // of tree.descriptors
  SavedFiles directories;       // of the file system

  // Which of tree.tasks, and of parts, is the task with this id; nothing: none.
  [[nodiscard]] std::optional<std::size_t> index_of(model::Pid pid) const;
  // What the task with this id has mapped; nothing: there is none.
  [[nodiscard]] std::vector<AddressRange> mapped_by(model::Pid pid) const;
  // How many descriptor tables there are, and the first task of each.
  [[nodiscard]] std::size_t tables() const;
  [[nodiscard]] std::vector<model::Pid> owners_of_tables() const;
};

}  // namespace relive::rollback
