#include "rollback/snapshot.h"

#include <algorithm>

namespace relive::rollback {

std::size_t Snapshot::tables() const {
  std::size_t count = 0;
  for (const model::Task& task : tree.tasks) count = std::max(count, task.table + 1);
  return count;
}

std::vector<model::Pid> Snapshot::owners_of_tables() const {
  std::vector<model::Pid> owners(tables());
  for (const model::Task& task : tree.tasks)
    if (owners[task.table].value == 0) owners[task.table] = task.pid;
  return owners;
}

}  // namespace relive::rollback
