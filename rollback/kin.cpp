#include "rollback/kin.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <set>
#include <variant>

#include <fmt/format.h>

#include "base/fault.h"
#include "base/overloaded.h"
#include "task/procfs.h"

namespace relive::rollback {

namespace {

using diff::Actor;
using diff::ForkBlank;
using diff::TreeStep;
using model::Pid;

Result<bool> child_signal_pending(Pid pid) {
  const std::string status = RELIVE_TRY(task::read_proc(pid, "status"));
  const std::string_view text = task::status_field(status, "ShdPnd");
  std::uint64_t pending = 0;
  std::from_chars(text.data(), text.data() + text.size(), pending, 16);
  return (pending >> (SIGCHLD - 1) & 1U) != 0;
}

class Forking {
 public:
  Forking(Stay& stay, Members& members, std::optional<parasite::TreeAgreement>& agreement)
      : stay_(stay), members_(members), agreement_(agreement) {}

  Result<void> carry_out(const TreeStep& step) {
    actor_ = step.actor;
    return std::visit(*this, step.call);
  }

  Result<void> operator()(const ForkBlank& fork) {
    parasite::Visit& parent = *stay_.visit(Pid{actor_.number});
    std::uint64_t flags = 0;
    if (fork.files) flags |= CLONE_FILES;
    if (fork.file_system) flags |= CLONE_FS;
    auto task = RELIVE_TRY(
        parent.fork_task({.pid = Pid{fork.child.number},
                          .exit_signal = fork.exit_signal,
                          .flags = flags,
                          .child_signal_pending = RELIVE_TRY(child_signal_pending(Pid{actor_.number}))}));
    const auto [at, fresh] = stay_.blanks().emplace(fork.child, Stay::Blank{.task = std::move(task), .member = nullptr, .visit = {}});
    return move_in(at->second, parent);
  }
  Result<void> operator()(const diff::StartSession&) { return call("setsid", SYS_setsid, {}); }
  Result<void> operator()(const diff::SetGroup& set) {
    return call(fmt::format("setpgid {}", set.group.value), SYS_setpgid, {0, static_cast<std::uint64_t>(set.group.value)});
  }
  Result<void> operator()(const diff::SetSubreaper& set) {
    return call("prctl PR_SET_CHILD_SUBREAPER", SYS_prctl, {PR_SET_CHILD_SUBREAPER, set.value ? 1U : 0U});
  }
  Result<void> operator()(const diff::ExitWith&) { return not_here("an end"); }
  Result<void> operator()(const diff::Kill&) { return not_here("a kill"); }
  Result<void> operator()(const diff::Reap&) { return not_here("a wait"); }

 private:
  Result<void> call(std::string what, long number, std::initializer_list<std::uint64_t> arguments) {
    parasite::Visit* visit = stay_.visit(Pid{actor_.number});
    if (visit == nullptr) return fail(ErrorKind::system, fmt::format("{}: no task {}", what, actor_.number));
    RELIVE_TRY(fault_point(what));
    RELIVE_TRY(visit->syscall(std::move(what), number, arguments));
    return {};
  }
  static Result<void> not_here(std::string_view what) {
    return fail(ErrorKind::system, fmt::format("{} among what can be undone", what));
  }

  // The blank task gets the parasite, and what the member that it takes the place of has left.
  Result<void> move_in(Stay::Blank& blank, parasite::Visit& parent) {
    task::FrozenThread& thread = blank.task.threads().front();
    // As its parent stood when it was stopped: what the driver did since is relive's.
    thread.registers = parent.task().find(parent.driver())->registers;
    RELIVE_TRY(blank.task.set_registers(thread.tid, thread.registers));
    Member& member = members_[blank.task.pid()];
    member.pid = blank.task.pid();
    member.forget_task();
    member.start_time = blank.task.start_time();
    blank.member = &member;
    member.session.emplace(RELIVE_TRY(parasite::Session::infect(blank.task)));
    blank.visit.emplace(RELIVE_TRY(parasite::Visit::begin(blank.task, *member.session)));
    blank.visit->begin_from_nothing();
    stay_.begun(*blank.visit);
    if (agreement_) RELIVE_TRY(agreement_->join(*blank.visit));
    if (member.store) RELIVE_TRY(member.store->enter(*blank.visit));
    member.tracker = RELIVE_TRY(tracking::Tracker::create(tracking::TrackerKind::compare, *blank.visit));
    return {};
  }

  Stay& stay_;
  Members& members_;
  std::optional<parasite::TreeAgreement>& agreement_;
  Actor actor_;
};

// The steps behind those that can be undone.
std::span<const TreeStep> late(const diff::TreePlan& plan) { return std::span(plan.steps).subspan(plan.undoable); }

bool adopts(const diff::TreePlan& plan, Pid pid) {
  const auto known = std::ranges::find(plan.goal.tasks, pid, &model::TreeTask::pid);
  return known != plan.goal.tasks.end() && known->child_subreaper;
}

// What this release cannot do of a plan, with the task that it is about; empty where it can.
std::string not_carried_out(const diff::TreePlan& plan, std::size_t at) {
  const TreeStep& step = plan.steps[at];
  const bool early = at < plan.undoable;
  const auto in_tree = [](const Actor& actor) { return actor.kind == Actor::Kind::task; };
  return std::visit(
      Overloaded{
          [&](const ForkBlank& fork) -> std::string {
            if (!in_tree(step.actor) || !in_tree(fork.child) || fork.temporary)
              return "it takes a temporary task, or relive itself, to make it again";
            if (!early) return "its number has to be made free first";
            if (fork.memory || fork.handlers || fork.suspends) return "it shared memory with another task";
            if (fork.sibling) return "it was made with CLONE_PARENT";
            const auto goal = std::ranges::find(plan.goal.tasks, Pid{fork.child.number}, &model::TreeTask::pid);
            if (goal != plan.goal.tasks.end() && goal->state == model::TaskState::zombie)
              return "it was a zombie";
            return {};
          },
          [&](const diff::ExitWith&) -> std::string { return "a task has to end for it"; },
          [&](const diff::StartSession&) -> std::string { return early ? "" : "a session has to be begun for it"; },
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

Result<void> fork_tasks(Stay& stay, const diff::TreePlan& plan, Members& members,
                        std::optional<parasite::TreeAgreement>& agreement) {
  if (!agreement) {
    agreement.emplace(RELIVE_TRY(parasite::TreeAgreement::create()));
    for (auto& [pid, present] : stay.present()) RELIVE_TRY(agreement->join(*present.visit));
  }
  Forking forking(stay, members, agreement);
  for (std::size_t at = 0; at < plan.undoable; ++at)
    RELIVE_TRY(with_context(forking.carry_out(plan.steps[at]), diff::text(plan.steps[at])));
  return {};
}

std::vector<diff::Refusal> not_carried_out(const diff::TreePlan& plan) {
  std::vector<diff::Refusal> out;
  for (std::size_t at = 0; at < plan.steps.size(); ++at) {
    std::string reason = not_carried_out(plan, at);
    if (reason.empty()) continue;
    const auto* const fork = std::get_if<ForkBlank>(&plan.steps[at].call);
    const Actor about = fork != nullptr ? fork->child : plan.steps[at].actor;
    out.push_back({.object = about.kind == Actor::Kind::task ? fmt::format("task {}", about.number) : diff::text(about),
                   .reason = "cannot be made again by this release: " + std::move(reason),
                   .hint = "take a new snapshot"});
  }
  return out;
}

bool loses_children(const diff::TreePlan& plan, Pid parent) { return !to_wait_for(plan, parent).empty(); }

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
    const auto known = stay.present().find(Pid{kill->target.number});
    if (known == stay.present().end()) continue;
    known->second.visit.reset();
    known->second.task->end();
    known->second.member->forget_task();
  }
}

}  // namespace relive::rollback
