#include "diff/tree_table.h"

#include <algorithm>

namespace relive::diff {

using model::Pid;

TaskTable::TaskTable(const model::Forest& forest) : forest_(forest) {
  for (const model::TreeTask& task : forest.tasks) {
    tasks_.emplace(task.pid, &task);
    children_[task.parent].push_back(task.pid);
    groups_[task.group].push_back(task.pid);
    sessions_[task.session].push_back(task.pid);
  }
}

const model::TreeTask* TaskTable::find(Pid pid) const {
  const auto found = tasks_.find(pid);
  return found == tasks_.end() ? nullptr : found->second;
}

const std::vector<Pid>& TaskTable::list(const Lists& lists, Pid key) {
  static const std::vector<Pid> none;
  const auto found = lists.find(key);
  return found == lists.end() ? none : found->second;
}

const std::vector<Pid>& TaskTable::children(Pid parent) const { return list(children_, parent); }
const std::vector<Pid>& TaskTable::in_group(Pid group) const { return list(groups_, group); }
const std::vector<Pid>& TaskTable::in_session(Pid session) const { return list(sessions_, session); }

std::vector<Pid> TaskTable::ancestors(Pid pid) const {
  std::vector<Pid> found;
  const model::TreeTask* task = find(pid);
  while (task != nullptr && (task = find(task->parent)) != nullptr && found.size() < tasks_.size()) {
    found.push_back(task->pid);
  }
  return found;
}

std::set<Pid> TaskTable::outside_parents() const {
  std::set<Pid> found;
  for (const auto& [parent, children] : children_) {
    if (!has(parent)) found.insert(parent);
  }
  return found;
}

}  // namespace relive::diff
