// Where a descriptor table of a tree is read.
#pragma once

#include "model/ids.h"
#include "parasite/session.h"
#include "task/frozen_task.h"

namespace relive::capture {

struct Table {
  task::FrozenTask* task = nullptr;  // one that has it; null: nobody has it now
  parasite::Visit* visit = nullptr;  // null: the task is at rest: its numbers are those of the snapshot
  model::Tid thread;                 // of the task, one that lives

  Table() = default;
  explicit Table(parasite::Visit* of)
      : task(of == nullptr ? nullptr : &of->task()), visit(of), thread(of == nullptr ? model::Tid{} : of->driver()) {}
  explicit Table(task::FrozenTask& at_rest) : task(&at_rest), thread(at_rest.threads().front().tid) {}
};

}  // namespace relive::capture
