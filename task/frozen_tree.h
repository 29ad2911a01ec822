// A tree of tasks, every thread of each stopped under our ptrace.
//
// The tree of PID is that task and its descendants, as the kernel lists them now (/proc/PID/task/TID/children, since
// Linux 3.5 with CONFIG_PROC_CHILDREN), and those that the caller names besides: tasks that an end between has given
// another parent.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/ids.h"
#include "task/frozen_task.h"

namespace relive::task {

// A task that has ended and was not waited for yet.
struct Zombie {
  model::Pid pid;
  std::uint64_t start_time = 0;
  model::Pid parent;
  std::int32_t group = 0;
  std::int32_t session = 0;
  std::int32_t status = 0;  // as wait(2) will tell it; 0 where we may not see it
  bool operator==(const Zombie&) const = default;
};

class FrozenTree {
 public:
  // Parents are stopped before their children, so none is born behind our back. Errors, after which everything runs as
  // before: as FrozenTask::freeze, for any of them. `also` that have ended are passed over.
  static Result<FrozenTree> freeze(model::Pid root, std::span<const model::Pid> also = {}, int patience_ms = 2000);

  // No task at all.
  FrozenTree();

  // The root first, a parent before its children.
  [[nodiscard]] std::vector<FrozenTask>& tasks() { return tasks_; }
  [[nodiscard]] FrozenTask* find(model::Pid pid);
  [[nodiscard]] const std::vector<Zombie>& zombies() const { return zombies_; }

  void resume();
  [[nodiscard]] std::uint64_t frozen_since_ns() const { return frozen_since_ns_; }

 private:
  Result<void> add(model::Pid pid, int patience_ms);
  Result<void> add_children(std::size_t of, int patience_ms);
  std::uint64_t frozen_since_ns_;
  std::vector<FrozenTask> tasks_;
  std::vector<Zombie> zombies_;
};

// The text of /proc/PID/task/TID/children (proc_pid_task_tid_children(5)): pids with spaces between them.
Result<std::vector<model::Pid>> parse_children(std::string_view text);

// Reads a task's line of /proc/PID/stat where it is a zombie without living threads; nothing for any other.
Result<std::optional<Zombie>> read_zombie(model::Pid pid);

}  // namespace relive::task
