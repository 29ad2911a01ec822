#include "rollback/kin.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <set>
#include <variant>

#include <fmt/format.h>

#include "base/fault.h"
#include "base/overloaded.h"
#include "parasite/execute.h"
#include "task/procfs.h"
#include "task/signal_set.h"

namespace relive::rollback {

namespace {

using diff::Actor;
using diff::ForkBlank;
using diff::TreeStep;
using model::Pid;

constexpr std::uint64_t kAllKinds = 0x40000000;  // __WALL

void end_task(Stay& stay, Pid pid) {
  const auto known = stay.present().find(pid);
  if (known == stay.present().end()) return;
  known->second.visit.reset();
  known->second.at_rest = false;  // if its pid is taken again, that is another task
  known->second.task->end();
  known->second.member->forget_task();
}

// A task as the plan leaves it; null: there is none.
const model::TreeTask* goal_of(const diff::TreePlan& plan, Pid pid) {
  const auto at = std::ranges::find(plan.goal.tasks, pid, &model::TreeTask::pid);
  return at == plan.goal.tasks.end() ? nullptr : &*at;
}
bool ends_as_zombie(const diff::TreePlan& plan, Pid pid) {
  const model::TreeTask* const goal = goal_of(plan, pid);
  return goal != nullptr && goal->state == model::TaskState::zombie;
}

class Forking {
 public:
  Forking(Stay& stay, const Snapshot& wanted, const diff::TreePlan& plan, const std::set<Pid>& executing,
          Members& members, std::optional<parasite::TreeAgreement>& agreement)
      : stay_(stay), wanted_(wanted), plan_(plan), executing_(executing), members_(members), agreement_(agreement) {}

  Result<void> carry_out(const TreeStep& step) {
    actor_ = step.actor;
    return std::visit(*this, step.call);
  }

  Result<void> operator()(const ForkBlank& fork) {
    const Pid pid{fork.child.number};
    if (actor_.kind == Actor::Kind::relive) return fork_here(fork.child);
    parasite::Visit& parent = *stay_.visit(Pid{actor_.number});
    std::optional<int> left_status;
    if (const auto left = left_.find(pid); left != left_.end()) left_status = left->second;
    std::uint64_t flags = 0;
    if (fork.files) flags |= CLONE_FILES;
    if (fork.file_system) flags |= CLONE_FS;
    std::optional<model::RemoteFd> program;
    if (executing_.contains(pid)) program = RELIVE_TRY(give_program(parent, pid));
    auto task =
        RELIVE_TRY(parent.fork_task({.pid = pid,
                                     .exit_signal = fork.exit_signal,
                                     .flags = flags,
                                     .child_signal_pending = RELIVE_TRY(task::is_pending(Pid{actor_.number}, SIGCHLD)),
                                     .takes_place_of_zombie = left_status.has_value()}));
    const auto [at, fresh] = stay_.blanks().emplace(fork.child, Stay::Blank{.task = std::move(task),
                                                                            .member = nullptr,
                                                                            .session = {},
                                                                            .left_status = left_status,
                                                                            .turn = stay_.blanks().size(),
                                                                            .executed = program.has_value(),
                                                                            .visit = {}});
    if (program) {
      RELIVE_TRY(parent.syscall("close a child's program", SYS_close, {static_cast<std::uint64_t>(program->value)}));
      parent.note_closed(*program);
      RELIVE_TRY(fault_point("execute a program"));
      RELIVE_TRY(parasite::execute(at->second.task, *program));
    } else {
      task::FrozenThread& thread = at->second.task.threads().front();
      // As its parent stood when it was stopped: what the driver did since is relive's.
      thread.registers = parent.task().find(parent.driver())->registers;
      RELIVE_TRY(at->second.task.set_registers(thread.tid, thread.registers));
    }
    return move_in(at->second, fork.files ? &parent : nullptr);
  }
  Result<void> operator()(const diff::StartSession&) { return call("setsid", SYS_setsid, {}); }
  Result<void> operator()(const diff::SetGroup& set) {
    RELIVE_TRY(record_inverse(fmt::format("setpgid {}", set.before.value), SYS_setpgid,
                              {0, static_cast<std::uint64_t>(set.before.value)}));
    return call(fmt::format("setpgid {}", set.group.value), SYS_setpgid,
                {0, static_cast<std::uint64_t>(set.group.value)});
  }
  Result<void> operator()(const diff::SetSubreaper& set) {
    const std::string what = "prctl PR_SET_CHILD_SUBREAPER";
    RELIVE_TRY(record_inverse(what, SYS_prctl, {PR_SET_CHILD_SUBREAPER, set.value ? 0U : 1U}));
    return call(what, SYS_prctl, {PR_SET_CHILD_SUBREAPER, set.value ? 1U : 0U});
  }
  Result<void> operator()(const diff::ExitWith&) { return not_here("an end"); }
  Result<void> operator()(const diff::Kill& kill) {
    end_task(stay_, Pid{kill.target.number});
    return {};
  }
  Result<void> operator()(const diff::Reap& reap) {
    if (actor_.kind != Actor::Kind::task) return not_here("a wait by a task outside");
    const Pid child{reap.child.number};
    const auto zombie = task::read_zombie(child);
    if (zombie && *zombie && is_forked_by_actor(child)) {
      left_[child] = (*zombie)->status;
      // Waited for as it is made again, and not before, if it can be.
      if (!keeps_number_of_another(**zombie)) return {};
    }
    return call(fmt::format("wait for task {}", reap.child.number), SYS_wait4,
                {static_cast<std::uint64_t>(reap.child.number), 0, kAllKinds, 0});
  }

 private:
  Result<void> call(std::string what, long number, std::initializer_list<std::uint64_t> arguments) {
    parasite::Visit* visit = stay_.visit(Pid{actor_.number});
    if (visit == nullptr) return fail(ErrorKind::system, fmt::format("{}: no task {}", what, actor_.number));
    RELIVE_TRY(fault_point(what));
    RELIVE_TRY(visit->syscall(std::move(what), number, arguments));
    return {};
  }
  // Of a task that lives; a blank one ends when this is undone.
  Result<void> record_inverse(std::string what, long number, std::initializer_list<std::uint64_t> arguments) {
    parasite::Visit* visit = stay_.visit(Pid{actor_.number});
    if (visit == nullptr || stay_.blanks().contains(actor_)) return {};
    return visit->record_undo(std::move(what), number, arguments);
  }
  static Result<void> not_here(std::string_view what) {
    return fail(ErrorKind::system, fmt::format("{} among what can be undone", what));
  }

  // Does the task that is to wait for it make it again, too? Not another one that has its pid then.
  [[nodiscard]] bool is_forked_by_actor(Pid child) const {
    if (std::ranges::find(plan_.created, Pid{actor_.number}) != plan_.created.end()) return false;
    return std::ranges::any_of(plan_.steps, [&](const TreeStep& step) {
      const auto* const fork = std::get_if<ForkBlank>(&step.call);
      return fork != nullptr && fork->child == diff::task_actor(child) && step.actor == actor_;
    });
  }

  // Is its group's or its session's number the pid of one that is forked before it is?
  [[nodiscard]] bool keeps_number_of_another(const task::Zombie& zombie) const {
    for (const TreeStep& step : plan_.steps) {
      const auto* const fork = std::get_if<ForkBlank>(&step.call);
      if (fork == nullptr) continue;
      if (fork->child == diff::task_actor(zombie.pid)) return false;
      if (fork->child == diff::task_actor(Pid{zombie.group}) || fork->child == diff::task_actor(Pid{zombie.session}))
        return true;
    }
    return false;
  }

  // The parent gets a descriptor of what its child is to execute, and hands it on by forking.
  Result<model::RemoteFd> give_program(parasite::Visit& parent, Pid child) {
    const std::string what = fmt::format("the program of task {}", child.value);
    const auto number = RELIVE_TRY(parent.spare_descriptor());
    RELIVE_TRY(parent.record_undo("close " + what, SYS_close, {static_cast<std::uint64_t>(number.value)}));
    RELIVE_TRY(fault_point("give " + what));
    RELIVE_TRY(parent.give(part_of(child)->holds.executable.get(), number));
    return number;
  }
  // By relive itself. The child has our descriptors until it executes.
  Result<void> fork_here(const Actor& child) {
    const Pid pid{child.number};
    RELIVE_TRY(fault_point("fork a task of relive's own"));
    const auto [at, fresh] =
        stay_.blanks().emplace(child, Stay::Blank{.task = RELIVE_TRY(task::FrozenTask::fork_here(pid)),
                                                  .member = nullptr,
                                                  .session = {},
                                                  .left_status = {},
                                                  .turn = stay_.blanks().size(),
                                                  .executed = true,
                                                  .visit = {}});
    RELIVE_TRY(fault_point("execute a program"));
    RELIVE_TRY(parasite::execute(at->second.task, {.value = part_of(pid)->holds.executable.get()}));
    return move_in(at->second, nullptr);
  }

  // Null: it was a zombie.
  [[nodiscard]] const TaskPart* part_of(Pid pid) const {
    const auto index = wanted_.index_of(pid);
    return index ? &wanted_.parts[*index] : nullptr;
  }

  // The blank task gets the parasite, and what the member that it takes the place of has left.
  // `same_table`: a visit of a task with the same descriptor table; null: it has one of its own.
  Result<void> move_in(Stay::Blank& blank, const parasite::Visit* same_table) {
    const Pid pid = blank.task.pid();
    if (!ends_as_zombie(plan_, pid)) {
      blank.member = &members_[pid];
      blank.member->pid = pid;
      blank.member->forget_task();
      blank.member->start_time = blank.task.start_time();
    }
    auto& session = blank.member != nullptr ? blank.member->session : blank.session;
    session.emplace(RELIVE_TRY(parasite::Session::infect(blank.task, wanted_.mapped_by(pid))));
    blank.visit.emplace(RELIVE_TRY(parasite::Visit::begin(blank.task, *session)));
    if (same_table != nullptr) blank.visit->share_descriptors(*same_table);
    RELIVE_TRY(blank.visit->begin_from_nothing(blank.left_status));
    RELIVE_TRY(blank.task.let_live());
    stay_.begun(*blank.visit);
    if (agreement_) RELIVE_TRY(agreement_->join(*blank.visit));
    if (blank.member == nullptr) return {};
    if (blank.member->store)
      RELIVE_TRY(blank.member->store->enter(*blank.visit));
    else  // it comes from an image
      blank.member->store.emplace(RELIVE_TRY(tracking::PageStore::create(*blank.visit)));
    blank.member->tracker = RELIVE_TRY(tracking::Tracker::create(tracking::TrackerKind::compare, *blank.visit));
    return {};
  }

  Stay& stay_;
  const Snapshot& wanted_;
  const diff::TreePlan& plan_;
  const std::set<Pid>& executing_;
  Members& members_;
  std::optional<parasite::TreeAgreement>& agreement_;
  std::map<Pid, int> left_;  // zombies that were waited for, with their status
  Actor actor_;
};

// The steps that are carried out before the others are prepared: up to the last that makes, or shapes, a blank task.
// Those behind the undoable ones cannot be taken back: a number is made free for a task that is to have it again.
std::size_t early(const diff::TreePlan& plan) {
  const auto shapes = [&](const TreeStep& step) {
    if (std::holds_alternative<ForkBlank>(step.call)) return true;
    return step.actor.kind == Actor::Kind::task &&
           std::ranges::find(plan.created, Pid{step.actor.number}) != plan.created.end() &&
           !std::holds_alternative<diff::ExitWith>(step.call);
  };
  std::size_t end = plan.undoable;
  for (std::size_t at = end; at < plan.steps.size(); ++at)
    if (shapes(plan.steps[at])) end = at + 1;
  return end;
}
// Those that are left for the commit.
std::span<const TreeStep> late(const diff::TreePlan& plan) { return std::span(plan.steps).subspan(early(plan)); }

// May it get the children of tasks that end in the commit? Its flag is set by its own program, behind that.
bool adopts(const diff::TreePlan& plan, Pid pid) {
  const model::TreeTask* const goal = goal_of(plan, pid);
  if (goal != nullptr && goal->child_subreaper) return true;
  return std::ranges::any_of(late(plan), [&](const TreeStep& step) {
    const auto* const set = std::get_if<diff::SetSubreaper>(&step.call);
    return set != nullptr && !set->value && step.actor == diff::task_actor(pid);
  });
}

// What this release cannot do of a plan, with the task that it is about; empty where it can.
std::string not_carried_out(const diff::TreePlan& plan, const TreeStep& step, bool soon) {
  const auto in_tree = [](const Actor& actor) { return actor.kind == Actor::Kind::task; };
  return std::visit(
      Overloaded{
          [&](const ForkBlank& fork) -> std::string {
            if (step.actor.kind == Actor::Kind::helper || !in_tree(fork.child) || fork.temporary)
              return "it takes a temporary task to make it again";
            if (!in_tree(step.actor) && ends_as_zombie(plan, Pid{fork.child.number}))
              return "it had ended, for a task outside to wait for";
            if (fork.memory || fork.handlers || fork.suspends) return "it shared memory with another task";
            if (fork.sibling) return "it was made with CLONE_PARENT";
            return {};
          },
          [&](const diff::ExitWith&) -> std::string {
            return in_tree(step.actor) && ends_as_zombie(plan, Pid{step.actor.number}) && !soon
                       ? ""
                       : "a task has to end for it";
          },
          [&](const diff::StartSession&) -> std::string { return soon ? "" : "a session has to be begun for it"; },
          [&](const diff::Reap& reap) -> std::string {
            return soon && !in_tree(step.actor) && in_tree(reap.child) ? "a task outside has to wait for it" : "";
          },
          [&](const auto&) -> std::string { return {}; },
      },
      step.call);
}

// Those that a task's program has to end, and to wait for: its own children, and where it adopts orphans, whoever may
// become one.
std::set<Pid> to_wait_for(const diff::TreePlan& plan, Pid parent) {
  std::set<Pid> out;
  const bool adopter = adopts(plan, parent);
  for (const TreeStep& step : late(plan)) {
    const auto* const reap = std::get_if<diff::Reap>(&step.call);
    if (reap == nullptr || reap->child.kind != Actor::Kind::task) continue;
    const Pid child{reap->child.number};
    if (step.actor == diff::task_actor(parent)) out.insert(child);
    const bool by_one_that_ends = step.actor.kind == Actor::Kind::task &&
                                  std::ranges::find(plan.ended, Pid{step.actor.number}) != plan.ended.end();
    if (adopter && by_one_that_ends) out.insert(child);
  }
  return out;
}

}  // namespace

model::DescriptorTable foresee_descriptors(Stay& stay, const Snapshot& wanted, const diff::TreePlan& plan,
                                           const std::set<model::Pid>& executing,
                                           const model::DescriptorTable& living) {
  using Numbers = std::vector<model::Descriptor>;
  std::map<int, Numbers> tables;
  for (const model::Descriptor& descriptor : living.descriptors) tables[descriptor.fd.table].push_back(descriptor);
  std::map<Pid, Numbers> now;
  for (const model::Task& task : wanted.tree.tasks)
    if (stay.task(task.pid) != nullptr) now[task.pid] = tables[static_cast<int>(task.table)];
  int surplus = static_cast<int>(wanted.tables());
  std::map<Pid, int> table_of_surplus;
  for (const Pid pid : stay.surplus(wanted.tree)) {
    now[pid] = tables[surplus];
    table_of_surplus[pid] = surplus++;
  }
  for (const TreeStep& step : std::span(plan.steps).first(early(plan))) {
    if (const auto* const kill = std::get_if<diff::Kill>(&step.call)) now.erase(Pid{kill->target.number});
    const auto* const fork = std::get_if<ForkBlank>(&step.call);
    if (fork == nullptr) continue;
    const Pid child{fork->child.number};
    now[child] = now[Pid{step.actor.number}];
    if (executing.contains(child)) std::erase_if(now[child], &model::Descriptor::close_on_exec);
  }
  model::DescriptorTable out = living;
  out.descriptors.clear();
  std::set<int> done;
  const auto add = [&](int table, Numbers numbers) {
    if (!done.insert(table).second) return;
    for (model::Descriptor& descriptor : numbers) {
      descriptor.fd.table = table;
      out.descriptors.push_back(descriptor);
    }
  };
  for (const model::Task& task : wanted.tree.tasks)
    if (now.contains(task.pid)) add(static_cast<int>(task.table), now[task.pid]);
  for (const auto& [pid, table] : table_of_surplus)
    if (now.contains(pid)) add(table, now[pid]);
  std::ranges::sort(out.descriptors, {}, &model::Descriptor::fd);
  // Nobody has them any more: they are none of those that were.
  std::vector<bool> had(out.open_files.size());
  for (const model::Descriptor& descriptor : living.descriptors) had[descriptor.open_file] = true;
  for (const model::Descriptor& descriptor : out.descriptors) had[descriptor.open_file] = false;
  for (std::size_t index = 0; index < had.size(); ++index)
    if (had[index]) out.open_files[index].same_as.reset();
  return out;
}

Result<void> fork_tasks(Stay& stay, const Snapshot& wanted, const diff::TreePlan& plan,
                        const std::set<model::Pid>& executing, Members& members,
                        std::optional<parasite::TreeAgreement>& agreement, bool& irreversible) {
  if (!agreement) {
    agreement.emplace(RELIVE_TRY(parasite::TreeAgreement::create()));
    for (auto& [pid, present] : stay.present())
      if (present.visit) RELIVE_TRY(agreement->join(*present.visit));
  }
  Forking forking(stay, wanted, plan, executing, members, agreement);
  const std::size_t end = early(plan);
  for (std::size_t at = 0; at < end; ++at) {
    // A zombie that was waited for comes back if this is undone (Stay::Blank::left_status); a killed task does not.
    if (at >= plan.undoable && std::holds_alternative<diff::Kill>(plan.steps[at].call)) irreversible = true;
    RELIVE_TRY(with_context(forking.carry_out(plan.steps[at]), diff::text(plan.steps[at])));
  }
  return {};
}

Result<void> Endings::stage() {
  for (const TreeStep& step : late(plan_)) {
    const auto* const end = std::get_if<diff::ExitWith>(&step.call);
    if (end == nullptr) continue;
    Stay::Blank& blank = stay_.blanks().at(step.actor);
    parasite::Program program;
    RELIVE_TRY(blank.visit->add_end(end->status, program));
    std::vector<parasite::ThreadGoal> goals(1);
    const task::FrozenThread& thread = blank.task.threads().front();
    goals[0].tid = thread.tid;
    goals[0].wanted = {.registers = thread.registers,
                       .xstate = RELIVE_TRY(blank.task.xstate(thread.tid)),
                       .signal_mask = thread.signal_mask};
    RELIVE_TRY(blank.visit->stage(program, goals));
    staged_.push_back(&blank);
  }
  return {};
}

void Endings::unstage() {
  for (Stay::Blank* blank : staged_) blank->visit->unstage();
}

void Endings::carry_out() {
  for (Stay::Blank* blank : staged_) Stay::let_end(*blank);
}

std::vector<diff::Refusal> not_carried_out(const diff::TreePlan& plan) {
  std::vector<diff::Refusal> out;
  const std::size_t end = early(plan);
  for (std::size_t at = 0; at < plan.steps.size(); ++at) {
    std::string reason = not_carried_out(plan, plan.steps[at], at < end);
    if (reason.empty()) continue;
    const auto* const fork = std::get_if<ForkBlank>(&plan.steps[at].call);
    const Actor about = fork != nullptr ? fork->child : plan.steps[at].actor;
    out.push_back({.object = about.kind == Actor::Kind::task ? fmt::format("task {}", about.number) : diff::text(about),
                   .reason = "cannot be made again by this release: " + std::move(reason),
                   .hint = "take a new snapshot"});
  }
  return out;
}

namespace {

bool loses_children(const diff::TreePlan& plan, Pid parent) {
  const bool adopter = adopts(plan, parent);
  const bool waits = std::ranges::any_of(plan.steps, [&](const TreeStep& step) {
    return std::holds_alternative<diff::Reap>(step.call) && (adopter || step.actor == diff::task_actor(parent));
  });
  if (waits) return true;
  // A blank task that becomes a zombie again tells its parent.
  return std::ranges::any_of(late(plan), [&](const TreeStep& step) {
    if (!std::holds_alternative<diff::ExitWith>(step.call)) return false;
    const auto goal = std::ranges::find(plan.goal.tasks, Pid{step.actor.number}, &model::TreeTask::pid);
    return goal != plan.goal.tasks.end() && goal->parent == parent;
  });
}

bool is_job_stopped(task::FrozenTask& task) {
  return std::ranges::any_of(task.threads(), &task::FrozenThread::job_stopped);
}

// May a group be orphaned while it has a stopped member? Then all its members get SIGHUP and SIGCONT
// (kill_orphaned_pgrp() in kernel/exit.c). Which group that is, and whether it is one at all, is not worked out.
bool may_hang_up(Stay& stay, const diff::TreePlan& plan) {
  const bool ends = std::ranges::any_of(plan.steps, [](const TreeStep& step) {
    return std::holds_alternative<diff::Kill>(step.call) || std::holds_alternative<diff::ExitWith>(step.call);
  });
  return ends && std::ranges::any_of(stay.tree().tasks(), is_job_stopped);
}

}  // namespace

bool gets_signals(Stay& stay, const diff::TreePlan& plan, Pid task) {
  return loses_children(plan, task) || may_hang_up(stay, plan);
}

Result<void> end_children(Stay& stay, const diff::TreePlan& plan, Pid parent, parasite::Visit& visit,
                          parasite::Program& commit) {
  for (const Pid child : to_wait_for(plan, parent)) {
    RELIVE_TRY(fault_point("end a child"));
    const task::FrozenTask* task = stay.task(child);
    const UniqueFd zombie(task == nullptr ? static_cast<int>(::syscall(SYS_pidfd_open, child.value, 0)) : -1);
    const int handle = task == nullptr ? zombie.get() : task->pidfd();
    if (handle < 0) return fail_errno("pidfd_open", fmt::format("task {}", child.value));
    RELIVE_TRY(visit.end_child(child, handle, commit));
  }
  for (const TreeStep& step : late(plan)) {
    const auto* const group = std::get_if<diff::SetGroup>(&step.call);
    if (group == nullptr || step.actor != diff::task_actor(parent)) continue;
    commit.syscall(fmt::format("setpgid {}", group->group.value), SYS_setpgid,
                   {0, static_cast<std::uint64_t>(group->group.value)});
  }
  return {};
}

void end_tasks(Stay& stay, const diff::TreePlan& plan) {
  for (const TreeStep& step : late(plan)) {
    const auto* const kill = std::get_if<diff::Kill>(&step.call);
    if (kill == nullptr || kill->target.kind != Actor::Kind::task) continue;
    end_task(stay, Pid{kill->target.number});
  }
}

}  // namespace relive::rollback
