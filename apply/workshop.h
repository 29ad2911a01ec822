// What the executors of a plan share.
//
// prepare_*() does, beside the living state, all that can fail, recording each inverse with visit.record_undo() first
// and passing one fault_point() per step; and it appends to `commit` what remains: operations that cannot fail short of
// the task dying, with every number known. The engine runs `commit` on the driver as one program. The order in which
// the executors are called is the order of the commit program (rollback/way_back.cpp).
#pragma once

#include <string>
#include <vector>

#include "capture/holds.h"
#include "parasite/session.h"

namespace relive::apply {

struct Workshop {
  parasite::Visit& visit;
  const capture::Holds& holds;      // of this task
  const capture::FileHolds& files;  // of the open files of its tree
  parasite::Program& commit;
  parasite::Program& cleanup;       // runs behind all commit operations: closing spares, unmapping scratch
  std::vector<std::string>& notes;  // what the user is told: "descriptor 9: connection to 127.0.0.1:4242 kept"
};

}  // namespace relive::apply
