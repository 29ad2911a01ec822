#include "capture/forest.h"

#include <dirent.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "base/number.h"
#include "capture/process_text.h"
#include "task/procfs.h"
#include "task/stat_text.h"

namespace relive::capture {

namespace {

using model::Pid;
using model::TreeTask;

// For each task, the first one (they are in order of pid) that shares its object of this kind; 0: nobody does. Tasks
// are sorted in by kcmp's order of the objects: log n comparisons a task.
std::vector<pid_t> shared(const std::vector<Pid>& tasks, int kind) {
  std::vector<pid_t> first(tasks.size(), 0);
  std::vector<std::size_t> sorted;
  for (std::size_t index = 0; index < tasks.size(); ++index) {
    auto low = sorted.begin();
    bool known = false;
    for (auto high = sorted.end(); low != high && !known;) {
      const auto middle = low + (high - low) / 2;
      const long order = ::syscall(SYS_kcmp, tasks[*middle].value, tasks[index].value, kind, 0, 0);
      if (order < 0) return std::vector<pid_t>(tasks.size(), 0);
      if (order == 0) {
        known = true;
        first[*middle] = first[index] = tasks[*middle].value;
      } else if (order == 1) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    if (!known) sorted.insert(low, index);
  }
  return first;
}

std::vector<Pid> numbers_in(const std::string& directory) {
  std::vector<Pid> numbers;
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(directory.c_str()), ::closedir);
  if (stream == nullptr) return numbers;
  while (const dirent* entry = ::readdir(stream.get())) {
    if (const auto number = parse_number<pid_t>(entry->d_name)) numbers.push_back(Pid{*number});
  }
  return numbers;
}

Result<TreeTask> tree_task(Pid pid, std::string_view stat) {
  return TreeTask{.pid = pid,
                  .parent = Pid{RELIVE_TRY(task::stat_number<pid_t>(stat, 4))},
                  .group = Pid{RELIVE_TRY(task::stat_number<pid_t>(stat, 5))},
                  .session = Pid{RELIVE_TRY(task::stat_number<pid_t>(stat, 6))},
                  .exit_signal = RELIVE_TRY(task::stat_number<pid_t>(stat, 38)),
                  .child_subreaper = false,
                  .state = model::TaskState::alive,
                  .status = 0,
                  .suspended_by = {},
                  .sharing = {}};
}

}  // namespace

Result<TreeTask> read_tree_task(Pid pid) { return tree_task(pid, RELIVE_TRY(task::read_proc(pid, "stat"))); }

Result<model::Forest> read_forest(task::FrozenTree& tree) {
  model::Forest forest;
  for (const task::FrozenTask& task : tree.tasks())
    forest.tasks.push_back(RELIVE_TRY(tree_task(task.pid(), RELIVE_TRY(task.stat()))));
  std::ranges::sort(forest.tasks, {}, &TreeTask::pid);
  std::vector<Pid> living;
  for (const TreeTask& task : forest.tasks) living.push_back(task.pid);
  if (living.size() > 1) {
    const auto memory = shared(living, KCMP_VM);
    const auto files = shared(living, KCMP_FILES);
    const auto file_system = shared(living, KCMP_FS);
    const auto handlers = shared(living, KCMP_SIGHAND);
    for (std::size_t i = 0; i < living.size(); ++i)
      forest.tasks[i].sharing = {
          .memory = memory[i], .files = files[i], .file_system = file_system[i], .handlers = handlers[i]};
  }
  for (const task::Zombie& zombie : tree.zombies()) {
    TreeTask task = RELIVE_TRY(read_tree_task(zombie.pid));
    task.state = model::TaskState::zombie;
    task.status = zombie.status;
    forest.tasks.push_back(task);
  }
  std::ranges::sort(forest.tasks, {}, &TreeTask::pid);
  return forest;
}

Result<model::Surroundings> read_surroundings(const model::Forest& living) {
  model::Surroundings out;
  std::set<Pid> ours;
  std::set<Pid> taken;
  for (const TreeTask& task : living.tasks) ours.insert(task.pid);
  for (const Pid pid : numbers_in("/proc")) {
    for (const Pid thread : numbers_in(fmt::format("/proc/{}/task", pid.value)))
      if (!ours.contains(thread)) taken.insert(thread);
    if (ours.contains(pid)) continue;
    const auto task = read_tree_task(pid);
    if (!task) continue;  // it has ended meanwhile
    taken.insert({pid, task->group, task->session});
    out.groups.push_back({.group = task->group, .session = task->session});
  }
  std::ranges::sort(out.groups, {}, &model::OutsideGroup::group);
  const auto same = std::ranges::unique(out.groups, {}, &model::OutsideGroup::group);
  out.groups.erase(same.begin(), same.end());
  out.taken.assign(taken.begin(), taken.end());
  return out;
}

}  // namespace relive::capture
