// The kernel's rules for parents, groups, sessions, orphans and numbers, as a machine for tests. Written from the
// kernel's behaviour (fork.c, exit.c, sys.c, pid.c of Linux 6.1 to 6.18), not from the planner: neither includes the
// other. tests/live/kernel_rules_test.cpp compares it with the kernel that runs.
#pragma once

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "model/forest.h"

namespace relive::testing {

constexpr int kNotRunnable = -1000;  // no errno: a zombie, or one in vfork(2), makes no system call

struct SimulatedClone {
  bool parent = false;  // CLONE_PARENT, and so on
  bool memory = false;
  bool files = false;
  bool file_system = false;
  bool handlers = false;
  bool vfork = false;
  int exit_signal = SIGCHLD;
  pid_t set_tid = 0;
};

struct SimulatedTask {
  pid_t pid = 0;
  int serial = 0;  // tells two tasks of one pid apart
  pid_t parent = 0;
  pid_t group = 0;
  pid_t session = 0;
  bool session_leader = false;   // signal->leader
  bool subreaper = false;        // signal->is_child_subreaper
  bool below_subreaper = false;  // signal->has_child_subreaper
  int exit_signal = 0;
  bool execed = false;  // !PF_FORKNOEXEC
  bool zombie = false;
  int status = 0;
  pid_t vfork_child = 0;
  bool waits_at_once = false;  // init, and shells that wait for all they have
  bool unkillable = false;
  bool in_tree = false;
  int memory = 0;  // objects, by number
  int files = 0;
  int file_system = 0;
  int handlers = 0;
};

class KernelSimulator {
 public:
  KernelSimulator() {
    SimulatedTask init{.pid = 1, .group = 1, .session = 1, .session_leader = true};
    init.waits_at_once = init.unkillable = true;
    tasks_[1] = init;
  }

  // A task outside of the tree, in a session of its own.
  void outside(pid_t pid, pid_t parent, bool waits_at_once) {
    SimulatedTask task{.pid = pid, .parent = parent, .group = pid, .session = pid, .session_leader = true};
    task.exit_signal = SIGCHLD;
    task.waits_at_once = waits_at_once;
    task.serial = ++serials_;
    task.below_subreaper = tasks_[parent].below_subreaper || tasks_[parent].subreaper;
    task.memory = task.files = task.file_system = task.handlers = ++objects_;
    tasks_[pid] = task;
    last_ = std::max(last_, pid);
  }
  void put_into_tree(pid_t pid) { tasks_[pid].in_tree = true; }
  void set_last_pid(pid_t pid) { last_ = pid; }
  void set_pid_max(pid_t max) { pid_max_ = max; }

  [[nodiscard]] const SimulatedTask* find(pid_t pid) const {
    const auto found = tasks_.find(pid);
    return found == tasks_.end() ? nullptr : &found->second;
  }
  [[nodiscard]] const std::map<pid_t, SimulatedTask>& tasks() const { return tasks_; }

  // As a rollback does: those of `now` are gone, those of `then` are as they were in `before`. Numbers go on.
  void put_back(const KernelSimulator& before, const std::set<pid_t>& then, const std::set<pid_t>& now) {
    for (const pid_t pid : now) tasks_.erase(pid);
    for (const pid_t pid : then) tasks_[pid] = before.tasks_.at(pid);
  }

  // free_pid() comes when no task has the number attached, as whatever.
  [[nodiscard]] bool number_in_use(pid_t number) const {
    return std::ranges::any_of(tasks_, [&](const auto& entry) {
      return entry.first == number || entry.second.group == number || entry.second.session == number;
    });
  }

  // copy_process(): the new pid, or -errno.
  pid_t clone(pid_t caller, const SimulatedClone& call) {
    if (!runnable(caller)) return kNotRunnable;
    const SimulatedTask& current = tasks_[caller];
    if (call.parent && (call.exit_signal != 0 || current.unkillable)) return -EINVAL;
    if (call.handlers && !call.memory) return -EINVAL;
    pid_t pid = call.set_tid;
    if (pid == 0) pid = next_free();
    if (pid >= pid_max_ || pid < 0) return -EINVAL;
    if (call.set_tid != 0 && number_in_use(pid)) return -EEXIST;
    SimulatedTask made;
    made.pid = pid;
    made.serial = ++serials_;
    made.parent = call.parent ? current.parent : caller;
    made.exit_signal = call.parent ? current.exit_signal : call.exit_signal;
    made.group = current.group;
    made.session = current.session;
    const SimulatedTask& parent = tasks_[made.parent];
    made.below_subreaper = parent.below_subreaper || parent.subreaper;
    made.in_tree = current.in_tree;
    made.memory = call.memory ? current.memory : ++objects_;
    made.files = call.files ? current.files : ++objects_;
    made.file_system = call.file_system ? current.file_system : ++objects_;
    made.handlers = call.handlers ? current.handlers : ++objects_;
    tasks_[pid] = made;
    if (call.vfork) tasks_[caller].vfork_child = pid;
    return pid;
  }

  // ksys_setsid()
  int setsid(pid_t caller) {
    if (!runnable(caller)) return kNotRunnable;
    SimulatedTask& current = tasks_[caller];
    if (current.session_leader || has_group(caller)) return -EPERM;
    current.session_leader = true;
    current.group = current.session = caller;
    return 0;
  }

  // setpgid(2), in the order of the kernel's checks
  int setpgid(pid_t caller, pid_t pid, pid_t group) {
    if (!runnable(caller)) return kNotRunnable;
    if (pid == 0) pid = caller;
    if (group == 0) group = pid;
    if (group < 0) return -EINVAL;
    const auto found = tasks_.find(pid);
    if (found == tasks_.end()) return -ESRCH;
    SimulatedTask& task = found->second;
    const pid_t session = tasks_[caller].session;
    if (task.parent == caller) {
      if (task.session != session) return -EPERM;
      if (task.execed) return -EACCES;
    } else if (pid != caller) {
      return -ESRCH;
    }
    if (task.session_leader) return -EPERM;
    if (group != pid) {
      const auto member = std::ranges::find_if(tasks_, [&](const auto& entry) { return entry.second.group == group; });
      if (member == tasks_.end() || member->second.session != session) return -EPERM;
    }
    task.group = group;
    return 0;
  }

  int set_subreaper(pid_t caller, bool value) {
    if (!runnable(caller)) return kNotRunnable;
    tasks_[caller].subreaper = value;
    if (value) propagate(caller);
    return 0;
  }

  int exec(pid_t caller) {
    if (!runnable(caller)) return kNotRunnable;
    SimulatedTask& current = tasks_[caller];
    current.execed = true;
    current.exit_signal = SIGCHLD;
    current.memory = ++objects_;
    current.handlers = ++objects_;
    current.files = ++objects_;  // unshare_files()
    resume_parent(caller);
    return 0;
  }

  int exit(pid_t caller, int status) {
    if (!runnable(caller)) return kNotRunnable;
    die(caller, status);
    return 0;
  }

  int kill(pid_t pid) {
    const auto found = tasks_.find(pid);
    if (found == tasks_.end()) return -ESRCH;
    if (!found->second.zombie && !found->second.unkillable) die(pid, SIGKILL);
    return 0;
  }

  // wait4(pid, WNOHANG | __WALL): the pid, 0 where it lives, or -errno.
  pid_t wait(pid_t caller, pid_t pid) {
    if (!runnable(caller)) return kNotRunnable;
    const auto found = tasks_.find(pid);
    if (found == tasks_.end() || found->second.parent != caller) return -ECHILD;
    if (!found->second.zombie) return 0;
    tasks_.erase(found);
    return pid;
  }

  [[nodiscard]] bool runnable(pid_t pid) const {
    const SimulatedTask* task = find(pid);
    return task != nullptr && !task->zombie && task->vfork_child == 0;
  }

  // What /proc and kcmp(2) would tell of the tree.
  [[nodiscard]] model::Forest forest() const {
    model::Forest made;
    for (const auto& [pid, task] : tasks_) {
      if (!task.in_tree) continue;
      model::TreeTask shown{.pid = {pid}, .parent = {task.parent}, .group = {task.group}, .session = {task.session}};
      shown.exit_signal = task.exit_signal;
      if (task.zombie) {
        shown.state = model::TaskState::zombie;
        shown.status = task.status;
      } else {
        shown.child_subreaper = task.subreaper;
        shown.suspended_by = {task.vfork_child};
        shown.sharing = {.memory = least(&SimulatedTask::memory, task),
                         .files = least(&SimulatedTask::files, task),
                         .file_system = least(&SimulatedTask::file_system, task),
                         .handlers = least(&SimulatedTask::handlers, task)};
      }
      made.tasks.push_back(shown);
    }
    return made;
  }

 private:
  pid_t next_free() {  // idr_alloc_cyclic()
    do {
      if (++last_ >= pid_max_) last_ = kReserved;
    } while (number_in_use(last_));
    return last_;
  }

  [[nodiscard]] bool has_group(pid_t group) const {
    return std::ranges::any_of(tasks_, [&](const auto& entry) { return entry.second.group == group; });
  }

  void propagate(pid_t pid) {
    for (auto& [child, task] : tasks_) {
      if (task.parent != pid || task.below_subreaper || child == 1) continue;
      task.below_subreaper = true;
      propagate(child);
    }
  }

  void resume_parent(pid_t child) {
    for (auto& [pid, task] : tasks_) {
      if (task.vfork_child == child) task.vfork_child = 0;
    }
  }

  // exit_notify(), forget_original_parent(), reparent_leader()
  void die(pid_t pid, int status) {
    resume_parent(pid);
    const pid_t reaper = new_reaper(pid);
    std::vector<pid_t> dead;
    for (auto& [child, task] : tasks_) {
      if (task.parent != pid) continue;
      task.parent = reaper;
      task.exit_signal = SIGCHLD;
      if (task.zombie && tasks_[reaper].waits_at_once) dead.push_back(child);
    }
    SimulatedTask& task = tasks_[pid];
    task.zombie = true;
    task.status = status;
    task.vfork_child = 0;
    if (tasks_[task.parent].waits_at_once) dead.push_back(pid);
    for (const pid_t gone : dead) tasks_.erase(gone);
  }

  // find_new_reaper()
  [[nodiscard]] pid_t new_reaper(pid_t father) const {
    if (!find(father)->below_subreaper) return 1;
    for (pid_t above = find(father)->parent; above > 1; above = find(above)->parent) {
      const SimulatedTask* task = find(above);
      if (task->subreaper && !task->zombie) return above;
    }
    return 1;
  }

  [[nodiscard]] pid_t least(int SimulatedTask::* object, const SimulatedTask& task) const {
    pid_t first = 0;
    int count = 0;
    for (const auto& [pid, other] : tasks_) {
      if (!other.in_tree || other.zombie || other.*object != task.*object) continue;
      if (++count == 1) first = pid;
    }
    return count > 1 ? first : 0;
  }

  static constexpr pid_t kReserved = 100;
  std::map<pid_t, SimulatedTask> tasks_;
  pid_t last_ = kReserved;
  pid_t pid_max_ = 32768;
  int serials_ = 0;
  int objects_ = 0;
};

}  // namespace relive::testing
