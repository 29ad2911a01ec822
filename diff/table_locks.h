// What happens to the locks and leases of descriptor tables. Part of diff/descriptors.h.
//
// flock(2) and open-file-description locks and leases go with the open file description. POSIX locks belong to one
// table and one file, whatever description they were taken through; each close(2) of a descriptor of that file lets go
// of all of them, so they are taken again right behind the last close of a rollback, and once more at its end.
#pragma once

#include <vector>

#include "diff/descriptors.h"
#include "diff/table.h"

namespace relive::diff {

struct TableLocks {
  std::vector<LivingLocks> record;          // before everything else is prepared
  std::vector<DescriptorOperation> take;    // behind what is made anew
  std::vector<DescriptorOperation> settle;  // commit, when every number is filled
  std::vector<SetLocks> last;               // when the last number is closed
};

// `spares`: of which files spare numbers are closed at the end.
TableLocks plan_table_locks(const Table& wanted, const Table& living, const Matches& matches, const Spares& spares);

}  // namespace relive::diff
