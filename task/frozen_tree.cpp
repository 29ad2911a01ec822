#include "task/frozen_tree.h"

#include <sched.h>

#include <algorithm>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/number.h"
#include "task/procfs.h"
#include "task/stat_text.h"

namespace relive::task {

namespace {

bool is_gone(const Error& error) { return error.kind == ErrorKind::not_found || error.kind == ErrorKind::task_died; }

}  // namespace

Result<std::vector<model::Pid>> parse_children(std::string_view text) {
  std::vector<model::Pid> pids;
  for (;;) {
    text.remove_prefix(std::min(text.find_first_not_of(" \n"), text.size()));
    if (text.empty()) return pids;
    const std::string_view word = text.substr(0, text.find_first_of(" \n"));
    const auto number = parse_number<pid_t>(word);
    if (!number || *number <= 0)
      return fail(ErrorKind::system, fmt::format("/proc/PID/task/TID/children: cannot read \"{}\"", word));
    pids.push_back(model::Pid{*number});
    text.remove_prefix(word.size());
  }
}

Result<std::optional<Zombie>> read_zombie(model::Pid pid) {
  const std::string stat = RELIVE_TRY(read_proc(pid, "stat"));
  if (RELIVE_TRY(stat_field(stat, 3)) != "Z" || RELIVE_TRY(stat_number<int>(stat, 20)) > 1)
    return std::optional<Zombie>{};
  return Zombie{.pid = pid,
                .start_time = RELIVE_TRY(start_time(stat)),
                .parent = model::Pid{RELIVE_TRY(stat_number<pid_t>(stat, 4))},
                .group = RELIVE_TRY(stat_number<std::int32_t>(stat, 5)),
                .session = RELIVE_TRY(stat_number<std::int32_t>(stat, 6)),
                .status = RELIVE_TRY(stat_number<std::int32_t>(stat, 52))};
}

FrozenTree::FrozenTree() : frozen_since_ns_(now_ns()) {}

FrozenTask* FrozenTree::find(model::Pid pid) {
  const auto at = std::ranges::find(tasks_, pid, &FrozenTask::pid);
  return at == tasks_.end() ? nullptr : &*at;
}

Result<void> FrozenTree::add(model::Pid pid, int patience_ms) {
  auto task = FrozenTask::freeze(pid, patience_ms);
  if (!task) return std::unexpected(std::move(task).error());
  tasks_.push_back(*std::move(task));
  return {};
}

// A frozen task has no more children, so its list is whole; one of them may end, or become a zombie, meanwhile.
Result<void> FrozenTree::add_children(std::size_t of, int patience_ms) {
  const model::Pid parent = tasks_[of].pid();
  std::vector<model::Pid> children;
  for (const FrozenThread& thread : tasks_[of].threads()) {
    const auto listed =
        RELIVE_TRY(parse_children(RELIVE_TRY(read_proc(parent, fmt::format("task/{}/children", thread.tid.value)))));
    children.insert(children.end(), listed.begin(), listed.end());
  }
  for (const model::Pid child : children) {
    if (find(child) != nullptr || std::ranges::find(zombies_, child, &Zombie::pid) != zombies_.end()) continue;
    auto added = add(child, patience_ms);
    if (added) continue;
    auto zombie = read_zombie(child);
    for (; added.error().kind == ErrorKind::task_died && zombie && !*zombie; zombie = read_zombie(child))
      ::sched_yield();  // on its way to be one; nobody waits for it meanwhile
    if (zombie && *zombie) {
      zombies_.push_back(**zombie);
    } else if (zombie || !is_gone(zombie.error())) {
      return added;
    }
  }
  return {};
}

Result<FrozenTree> FrozenTree::freeze(model::Pid root, std::span<const model::Pid> also, int patience_ms) {
  FrozenTree tree;
  RELIVE_TRY(tree.add(root, patience_ms));
  tree.frozen_since_ns_ = tree.tasks_.front().frozen_since_ns();
  std::size_t seen = 0;
  const auto add_descendants = [&]() -> Result<void> {
    for (; seen < tree.tasks_.size(); ++seen) RELIVE_TRY(tree.add_children(seen, patience_ms));
    return {};
  };
  RELIVE_TRY(add_descendants());
  for (const model::Pid pid : also) {
    if (tree.find(pid) != nullptr) continue;
    if (auto added = tree.add(pid, patience_ms); !added && !is_gone(added.error())) {
      const auto zombie = read_zombie(pid);
      if (!zombie || !*zombie) return std::unexpected(std::move(added).error());
    }
    RELIVE_TRY(add_descendants());
  }
  return tree;
}

void FrozenTree::resume() {
  for (FrozenTask& task : tasks_) task.resume();
}

}  // namespace relive::task
