#include "diff/tree_check.h"

#include <fmt/format.h>

#include <csignal>
#include <map>
#include <utility>

#include "diff/tree_table.h"

namespace relive::diff {

using model::Pid;
using model::TreeTask;

namespace {

class Check {
 public:
  Check(const model::Forest& forest, std::string name) : forest_(forest), table_(forest), name_(std::move(name)) {}

  std::vector<Refusal> run() && {
    Pid last;
    for (const TreeTask& task : forest_.tasks) {
      if (task.pid <= last) wrong(task, "is not in the order of pids");
      last = task.pid;
      parent(task);
      group(task);
      other(task);
    }
    return std::move(refusals_);
  }

 private:
  void wrong(const TreeTask& task, const std::string& what) {
    refusals_.push_back({.object = fmt::format("task {}", task.pid.value),
                         .reason = fmt::format("the {} forest is none: it {}", name_, what),
                         .hint = {}});
  }

  void parent(const TreeTask& task) {
    if (task.parent.value < 0) wrong(task, "has no parent");
    const TreeTask* parent = table_.find(task.parent);
    if (parent != nullptr && is_zombie(*parent)) wrong(task, "has a parent that is dead");
    if (table_.ancestors(task.pid).size() >= forest_.tasks.size()) wrong(task, "is its own ancestor");
  }

  void group(const TreeTask& task) {
    if (task.group.value < 0 || task.session.value < 0) wrong(task, "has no group or session");
    if (task.session == task.pid && task.group != task.pid) wrong(task, "leads a session, but not its own group");
    if (task.group == task.session && task.session.value == 0) return;  // both outside of the pid namespace
    const auto [known, fresh] = sessions_.emplace(task.group, task.session);
    if (!fresh && known->second != task.session) wrong(task, "is in a group of another session");
    if (const TreeTask* leader = table_.find(task.group); leader != nullptr && leader->session != task.session) {
      wrong(task, "is in a group whose leader is in another session");
    }
    if (const TreeTask* leader = table_.find(task.session); leader != nullptr && !leads_session(*leader)) {
      wrong(task, "is in a session whose leader is in another one");
    }
    if (!table_.in_session(task.group).empty() && task.session != task.group) {
      wrong(task, "is in a group of a session's number, but not in the session");
    }
  }

  void other(const TreeTask& task) {
    if (task.exit_signal < 0 || task.exit_signal > SIGRTMAX) wrong(task, "has no such exit signal");
    if (task.sharing.handlers != 0 && task.sharing.memory == 0) wrong(task, "shares handlers, but no memory");
    if (task.suspended_by.value == 0) return;
    const TreeTask* child = table_.find(task.suspended_by);
    if (child == nullptr || child->parent != task.pid || is_zombie(*child) || is_zombie(task)) {
      wrong(task, "waits for a vfork child that it does not have");
    }
  }

  const model::Forest& forest_;
  TaskTable table_;
  std::string name_;
  std::map<Pid, Pid> sessions_;  // of groups
  std::vector<Refusal> refusals_;
};

}  // namespace

std::vector<Refusal> check_forest(const model::Forest& forest, const std::string& name) {
  return Check(forest, name).run();
}

}  // namespace relive::diff
