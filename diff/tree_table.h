// Looking things up in a forest. Pure.
#pragma once

#include <map>
#include <set>
#include <vector>

#include "model/forest.h"

namespace relive::diff {

// REQUIRES: the forest outlives the table.
class TaskTable {
 public:
  explicit TaskTable(const model::Forest& forest);

  [[nodiscard]] const model::Forest& forest() const { return forest_; }
  [[nodiscard]] const model::TreeTask* find(model::Pid pid) const;
  [[nodiscard]] bool has(model::Pid pid) const { return find(pid) != nullptr; }
  // By pid, ascending; also of a parent outside.
  [[nodiscard]] const std::vector<model::Pid>& children(model::Pid parent) const;
  [[nodiscard]] const std::vector<model::Pid>& in_group(model::Pid group) const;
  [[nodiscard]] const std::vector<model::Pid>& in_session(model::Pid session) const;
  // Those of the forest, from the parent up.
  [[nodiscard]] std::vector<model::Pid> ancestors(model::Pid pid) const;
  // Parents outside that tasks of the forest have, ascending.
  [[nodiscard]] std::set<model::Pid> outside_parents() const;

 private:
  using Lists = std::map<model::Pid, std::vector<model::Pid>>;
  static const std::vector<model::Pid>& list(const Lists& lists, model::Pid key);

  const model::Forest& forest_;
  std::map<model::Pid, const model::TreeTask*> tasks_;
  Lists children_;
  Lists groups_;
  Lists sessions_;
};

[[nodiscard]] inline bool is_zombie(const model::TreeTask& task) { return task.state == model::TaskState::zombie; }
[[nodiscard]] inline bool leads_session(const model::TreeTask& task) { return task.session == task.pid; }

}  // namespace relive::diff
