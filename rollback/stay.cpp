#include "rollback/stay.h"

#include <sched.h>

#include <algorithm>
#include <utility>

#include "base/fault.h"
#include "capture/forest.h"
#include "task/procfs.h"

namespace relive::rollback {

Result<std::unique_ptr<Stay>> Stay::freeze(model::Pid root, std::span<const model::Pid> also, Members& members,
                                           const Rests& rests) {
  std::unique_ptr<Stay> stay(new Stay(RELIVE_TRY(task::FrozenTree::freeze(root, also))));
  for (task::FrozenTask& task : stay->tree_.tasks()) {
    Member& member = members[task.pid()];
    member.pid = task.pid();
    if (member.start_time != task.start_time()) member.forget_task();  // the id of one that has ended
    member.start_time = task.start_time();
    Present& present = stay->present_[task.pid()];
    present.task = &task;
    present.member = &member;
    present.at_rest = member.session && rests && rests(member, task);
    if (!present.at_rest) RELIVE_TRY(look_at(present, task.pid() == root));
  }
  return stay;
}

// What is mapped tells whether it executes the program that has the parasite.
Result<void> Stay::look_at(Present& present, bool is_root) {
  present.maps_text = RELIVE_TRY(task::read_proc(present.task->pid(), "maps"));
  Member& member = *present.member;
  if (!member.session || member.session->present_in(present.maps_text)) return {};
  present.exec_since = true;
  if (!is_root) member.forget_task();
  member.start_time = present.task->start_time();
  return {};
}

Result<void> Stay::enter(Present& present) {
  Member& member = *present.member;
  RELIVE_TRY(fault_point("infect"));
  member.rest.reset();
  if (!member.session) member.session.emplace(RELIVE_TRY(parasite::Session::infect(*present.task)));
  parasite::Visit* const kin = visit_of_same_table(present.task->pid());
  present.visit.emplace(RELIVE_TRY(parasite::Visit::begin(*present.task, *member.session)));
  if (kin != nullptr) present.visit->share_descriptors(*kin);
  begun(*present.visit);
  return {};
}

parasite::Visit* Stay::visit_of_same_table(model::Pid pid) {
  const auto own = std::ranges::lower_bound(forest_.tasks, pid, {}, &model::TreeTask::pid);
  if (own == forest_.tasks.end() || own->pid != pid || own->sharing.files == 0) return nullptr;
  for (const model::TreeTask& task : forest_.tasks) {
    if (task.sharing.files != own->sharing.files) continue;
    const auto there = present_.find(task.pid);
    if (there != present_.end() && there->second.visit) return &*there->second.visit;
  }
  return nullptr;
}

Result<void> Stay::visit_all(std::optional<parasite::TreeAgreement>& agreement, Begun begun, bool agree) {
  begun_ = std::move(begun);
  forest_ = RELIVE_TRY(capture::read_forest(tree_));
  for (auto& [pid, present] : present_)
    if (!present.at_rest) RELIVE_TRY(enter(present));
  if ((agree || present_.size() > 1) && !agreement) agreement.emplace(RELIVE_TRY(parasite::TreeAgreement::create()));
  if (!agreement) return {};
  for (auto& [pid, present] : present_)
    if (present.visit) RELIVE_TRY(agreement->join(*present.visit));
  return {};
}

Result<void> Stay::wake(Present& present, std::optional<parasite::TreeAgreement>& agreement) {
  present.at_rest = false;
  RELIVE_TRY(look_at(present, false));
  RELIVE_TRY(enter(present));
  if (agreement) RELIVE_TRY(agreement->join(*present.visit));
  return {};
}

std::vector<model::Pid> Stay::surplus(const model::Tree& wanted) const {
  std::vector<model::Pid> out;
  for (const auto& [pid, present] : present_)
    if (present.visit && std::ranges::find(wanted.tasks, pid, &model::Task::pid) == wanted.tasks.end())
      out.push_back(pid);
  return out;
}

parasite::Visit* Stay::visit(model::Pid pid) {
  if (const auto blank = blanks_.find(diff::task_actor(pid)); blank != blanks_.end())
    return blank->second.visit ? &*blank->second.visit : nullptr;
  const auto known = present_.find(pid);
  return known == present_.end() || !known->second.visit ? nullptr : &*known->second.visit;
}

task::FrozenTask* Stay::task(model::Pid pid) {
  if (const auto blank = blanks_.find(diff::task_actor(pid)); blank != blanks_.end()) return &blank->second.task;
  const auto known = present_.find(pid);
  return known == present_.end() ? nullptr : known->second.task;
}

bool Stay::at_rest(model::Pid pid) const {
  const auto known = present_.find(pid);
  return known != present_.end() && known->second.at_rest;
}

Member* Stay::member(model::Pid pid) {
  if (const auto blank = blanks_.find(diff::task_actor(pid)); blank != blanks_.end()) return blank->second.member;
  const auto known = present_.find(pid);
  return known == present_.end() ? nullptr : known->second.member;
}

Result<void> Stay::depart() {
  Result<void> outcome;
  for (auto& [actor, blank] : blanks_) {
    if (!blank.visit || blank.member == nullptr || !blank.task.frozen()) continue;
    if (auto gone = blank.visit->depart(); !gone) outcome = gone;
  }
  for (auto& [pid, present] : present_) {
    if (!present.visit || !present.task->frozen()) continue;
    if (auto gone = present.visit->depart(); !gone) outcome = gone;
  }
  for (auto& [pid, present] : present_)
    if (present.held && present.held->broken()) {
      if (auto gone = present.held->depart(); !gone) outcome = gone;
    } else if (present.at_rest) {
      present.held.reset();
      present.task->resume();
    }
  return outcome;
}

std::uint32_t Stay::count_at_rest() const {
  return static_cast<std::uint32_t>(
      std::ranges::count_if(present_, [](const auto& one) { return one.second.at_rest; }));
}

Result<void> Stay::hold_at_rest(const model::Tree& wanted) {
  for (auto& [pid, present] : present_) {
    if (!present.at_rest) continue;
    const model::Task& task = *std::ranges::find(wanted.tasks, pid, &model::Task::pid);
    std::vector<std::vector<std::byte>> xstates;
    std::vector<parasite::ThreadGoal> goals;
    for (const model::Thread& thread : task.threads) {
      xstates.push_back(RELIVE_TRY(present.task->xstate(thread.tid)));
      parasite::ThreadGoal& goal = goals.emplace_back();
      goal.tid = thread.tid;
      goal.wanted = {.registers = thread.registers, .xstate = xstates.back(), .signal_mask = thread.signal_mask};
    }
    present.held.emplace(RELIVE_TRY(parasite::Visit::hold(*present.task, *present.member->session, goals)));
  }
  return {};
}

void Stay::let_rest() {
  for (auto& [pid, present] : present_) present.held.reset();
}

void Stay::break_off() {
  for (auto& [actor, blank] : blanks_)
    if (blank.visit && blank.task.frozen()) blank.visit->break_off();
  for (auto& [pid, present] : present_) {
    if (present.visit && present.task->frozen()) present.visit->break_off();
    if (present.held && present.task->frozen()) present.held->break_off();
  }
}

void Stay::let_end(Blank& blank) {
  blank.task.resume();
  for (;;) {
    const auto zombie = task::read_zombie(blank.task.pid());
    if (!zombie || *zombie) return;
    ::sched_yield();
  }
}

void Stay::end_visits() {
  for (auto& [pid, present] : present_) present.visit.reset();
}

void Stay::resume() { tree_.resume(); }

Result<void> Stay::leave(Present& present) {
  Member& member = *present.member;
  Result<void> cured;
  if (!present.exec_since) {
    auto visit = parasite::Visit::begin(*present.task, *member.session);
    cured = visit ? cure(member, *visit) : std::unexpected(std::move(visit).error());
  }
  auto left = member.session->leave(*present.task);
  member.session.reset();
  return cured ? left : cured;
}

Result<void> Stay::leave_all() {
  Result<void> outcome;
  for (auto& [pid, present] : present_) {
    if (!present.member->session) continue;
    if (auto left = leave(present); outcome && !left) outcome = std::move(left);
  }
  return outcome;
}

Stay::~Stay() {
  // Those that blank tasks have forked end before them: as a task undoes it waits for whom it has forked.
  std::vector<Blank*> last_first;
  for (auto& [actor, blank] : blanks_) last_first.push_back(&blank);
  std::ranges::sort(last_first, std::ranges::greater{}, &Blank::turn);
  for (Blank* blank : last_first) {
    if (!blank->task.frozen()) continue;
    if (blank->left_status && blank->visit) let_end(*blank);
    blank->visit.reset();
    blank->task.end();  // one that is to be a zombie, too
    if (blank->member != nullptr) blank->member->forget_task();
  }
  blanks_.clear();
  for (auto& [pid, present] : present_) {
    present.visit.reset();
    present.held.reset();
    const Member& member = *present.member;
    if (member.snapshots != 0 || !member.session || !present.task->frozen() || present.exec_since) continue;
    [[maybe_unused]] const auto left = leave(present);
  }
}

Result<void> cure(Member& member, parasite::Visit& visit) {
  member.tracker.reset();
  if (member.store) {
    RELIVE_TRY(member.store->leave(visit));
    member.store.reset();
    member.leases.clear();  // who reads has the store's memory all the same
  }
  member.current = {};
  return {};
}

}  // namespace relive::rollback
