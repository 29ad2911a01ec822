// What happens to the locks and leases of a descriptor table. Part of diff/descriptors.h.
//
// flock(2) and open-file-description locks and leases go with the open file description. POSIX locks belong to the task
// and one file, whatever description they were taken through; each close(2) of a descriptor of that file lets go of all
// of them, so they are taken again right behind the last close of a rollback, and once more at its end.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "diff/descriptors.h"
#include "diff/difference.h"
#include "model/descriptor.h"

namespace relive::diff {

struct TableLocks {
  std::vector<LivingLocks> record;          // before everything else is prepared
  std::vector<DescriptorOperation> take;    // behind what is made anew
  std::vector<DescriptorOperation> settle;  // commit, when every number is filled
  std::vector<SetLocks> last;               // when the last number is closed
};

// `living_of`: by wanted file, the living one that it is, if any.
TableLocks plan_table_locks(const model::DescriptorTable& wanted, const model::DescriptorTable& living,
                            const std::vector<std::optional<std::size_t>>& living_of);

}  // namespace relive::diff
