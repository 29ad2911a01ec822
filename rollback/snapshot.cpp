#include "rollback/snapshot.h"

#include <algorithm>

namespace relive::rollback {

std::optional<std::size_t> Snapshot::index_of(model::Pid pid) const {
  const auto at = std::ranges::find(tree.tasks, pid, &model::Task::pid);
  if (at == tree.tasks.end()) return std::nullopt;
  return static_cast<std::size_t>(at - tree.tasks.begin());
}

std::vector<AddressRange> Snapshot::mapped_by(model::Pid pid) const {
  std::vector<AddressRange> ranges;
  if (const auto index = index_of(pid))
    for (const model::Mapping& mapping : tree.tasks[*index].memory.mappings) ranges.push_back(mapping.range);
  return ranges;
}

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
