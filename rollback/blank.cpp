#include "rollback/blank.h"

#include <linux/securebits.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "diff/rights.h"
#include "rollback/way_back.h"

namespace relive::rollback {

namespace {

using model::MappingSource;
using model::Pid;
using model::Task;

// Where the kernel has put the vDSO: another place with each execve(2). 0: the program has unmapped it.
std::uint64_t vdso_of(const Task& task) {
  const auto at = std::ranges::find_if(task.memory.mappings, [](const model::Mapping& mapping) {
    return mapping.source == MappingSource::kernel && mapping.name == "[vdso]";
  });
  return at == task.memory.mappings.end() ? 0 : at->range.begin;
}

bool same_executable(const Task& a, const Task& b) {
  return a.process.executable_inode == b.process.executable_inode &&
         a.process.executable_device == b.process.executable_device;
}

// Does execve(2) of this file give rights of the file's own?
bool gives_rights(int executable) {
  struct stat seen{};
  if (::fstat(executable, &seen) != 0 || (seen.st_mode & (S_ISUID | S_ISGID)) != 0) return true;
  const std::string path = fmt::format("/proc/self/fd/{}", executable);
  return ::getxattr(path.c_str(), "security.capability", nullptr, 0) >= 0;
}

constexpr std::size_t kUserNamespace =
    std::ranges::find(model::kNamespaces, std::string_view("user")) - model::kNamespaces.begin();

std::uint64_t own_user_namespace() {
  struct stat seen{};
  return ::stat("/proc/self/ns/user", &seen) == 0 ? seen.st_ino : 0;
}

class Planner {
 public:
  Planner(const Snapshot& wanted, const Living& living, const diff::TreePlan& tree)
      : wanted_(wanted), living_(living), tree_(tree) {}

  BlankPlan plan() && {
    for (const diff::TreeStep& step : tree_.steps) {
      const auto* const fork = std::get_if<diff::ForkBlank>(&step.call);
      if (fork == nullptr || fork->child.kind != diff::Actor::Kind::task) continue;
      if (const auto child = wanted_.index_of(Pid{fork->child.number})) look_at(*child, step.actor, *fork);
    }
    return std::move(plan_);
  }

 private:
  // Who forks, as it will be then; null: a task that is none of the snapshot's.
  [[nodiscard]] const Task* forker(const diff::Actor& actor) const {
    const auto index = actor.kind == diff::Actor::Kind::task ? wanted_.index_of(Pid{actor.number}) : std::nullopt;
    if (!index) return nullptr;
    const bool blank = std::ranges::find(tree_.created, Pid{actor.number}) != tree_.created.end();
    const auto& lives = living_.tasks[*index];
    return blank || !lives ? &wanted_.tree.tasks[*index] : &*lives;
  }

  void look_at(std::size_t index, const diff::Actor& actor, const diff::ForkBlank& fork) {
    const Task& child = wanted_.tree.tasks[index];
    if (child.threads.empty()) return;
    const Task* const parent = forker(actor);
    const bool parent_is_fresh = fresh_.contains(Pid{actor.number});
    const bool executes = parent == nullptr || !same_executable(child, *parent) ||
                          (!parent_is_fresh && vdso_of(child) != vdso_of(*parent));
    if (executes) {
      plan_.executing.insert(child.pid);
      judge_execution(index, fork);
    }
    if (executes || parent_is_fresh) {
      fresh_.insert(child.pid);
      judge_shared_memory(index);
    }
    if (parent != nullptr) judge_rights(index, *parent, executes);
  }

  void judge_execution(std::size_t index, const diff::ForkBlank& fork) {
    const model::Process& process = wanted_.tree.tasks[index].process;
    if (!wanted_.parts[index].holds.executable)
      refuse(index, fmt::format("it ran {}, which could not be held", process.executable));
    if (fork.files) refuse(index, "it shared its descriptors with a task of another program, and execve(2) ends that");
    if (fork.exit_signal != SIGCHLD)
      refuse(index, fmt::format("its end was told by signal {}, and execve(2) makes that SIGCHLD", fork.exit_signal));
  }

  // A fresh memory has none of the shared memory that forks hand on: it is mapped from what is held.
  void judge_shared_memory(std::size_t index) {
    const model::Memory& memory = wanted_.tree.tasks[index].memory;
    for (const model::Mapping& mapping : memory.mappings) {
      if (mapping.source != MappingSource::shared_anonymous ||
          wanted_.parts[index].holds.mapped_files.contains(model::hold_key(memory, mapping)))
        continue;
      const auto has_it = [&](const Task& other) {
        return other.pid != wanted_.tree.tasks[index].pid &&
               std::ranges::any_of(other.memory.mappings, [&](const model::Mapping& one) {
                 return one.source == mapping.source && one.device == mapping.device && one.inode == mapping.inode;
               });
      };
      if (!std::ranges::any_of(wanted_.tree.tasks, has_it)) continue;
      refuse(index, "it shared memory that could not be held", "needs CAP_CHECKPOINT_RESTORE in the keeper");
      return;
    }
  }

  void judge_rights(std::size_t index, const Task& parent, bool executes) {
    const Task& child = wanted_.tree.tasks[index];
    model::Thread forks = parent.threads.front();
    if (!forks.inside_known)  // it is asked when it has been forked
      forks.secure_bits = wanted_.tree.tasks[*wanted_.index_of(parent.pid)].threads.front().secure_bits;
    if (executes) {
      const auto& executable = wanted_.parts[index].holds.executable;
      if (!executable || gives_rights(executable.get()))
        return;  // told when it has been done: nothing has changed then
      forks.credentials = diff::after_execve(forks.credentials, forks.secure_bits);
      forks.secure_bits &= ~(1U << SECURE_KEEP_CAPS);
    }
    for (const model::Thread& thread : child.threads) {
      const auto rights = diff::plan_rights(thread, forks);
      if (!rights.steps.empty() && child.process.namespaces[kUserNamespace] != own_user_namespace())
        refuse(index, "it had other rights than who forks it, in another user namespace than relive's");
      if (rights.refusal)
        refuse(index, fmt::format("its {} cannot be had from task {}: {}", rights.refusal->object, parent.pid.value,
                                  rights.refusal->reason));
    }
  }

  void refuse(std::size_t index, std::string why, std::string hint = "take a new snapshot") {
    const Task& task = wanted_.tree.tasks[index];
    diff::Refusal refusal{.object = fmt::format("task {} ({})", task.pid.value, task.threads.front().name),
                          .reason = "ended since, and cannot be made again: " + std::move(why),
                          .hint = std::move(hint)};
    if (plan_.refusals.empty() || plan_.refusals.back() != refusal) plan_.refusals.push_back(std::move(refusal));
  }

  const Snapshot& wanted_;
  const Living& living_;
  const diff::TreePlan& tree_;
  std::set<Pid> fresh_;  // their memory comes from an execve(2) of theirs, or of who forked them
  BlankPlan plan_;
};

}  // namespace

BlankPlan plan_blanks(const Snapshot& wanted, const Living& living, const diff::TreePlan& tree) {
  return Planner(wanted, living, tree).plan();
}

}  // namespace relive::rollback
