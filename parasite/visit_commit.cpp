// A visit: the commit, from the last that can be taken back to the goals of all threads.
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include <algorithm>
#include <csignal>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/fault.h"
#include "parasite/visit_state.h"
#include "task/procfs.h"

namespace relive::parasite {

using model::RemoteFd;
using model::TaskAddress;
using model::Tid;

namespace {

void store_phase(wire::Control& control, wire::Phase phase) {
  __atomic_store_n(reinterpret_cast<std::uint32_t*>(&control.phase), static_cast<std::uint32_t>(phase),
                   __ATOMIC_RELEASE);
}

}  // namespace

Result<void> Visit::stage(Program& program, std::vector<ThreadGoal>& goals) {
  wire::Control& control = arena().control();
  for (const ThreadGoal& goal : goals) {
    const task::FrozenThread* thread = task_->find(goal.tid);
    if (thread == nullptr) return fail(ErrorKind::system, fmt::format("no thread {} to commit", goal.tid.value));
    if (!state_->blocks.contains(goal.tid))
      state_->blocks.emplace(goal.tid, RELIVE_TRY(make_room(arena(), goal.tid, kThreadStack,
                                                            RELIVE_TRY(original_frame(*task_, arena(), *thread)))));
    wire::ThreadBlock& block = state_->blocks.at(goal.tid).value();
    block.wanted_frame = goal.surplus ? 0 : RELIVE_TRY(put_frame(arena(), goal.wanted)).value;
    RELIVE_TRY(put_program(arena(), goal.program, block.program));
  }
  if (goals.size() != task_->threads().size()) return fail(ErrorKind::system, "a thread without a goal");
  for (const RemoteFd own : own_descriptors())
    program.syscall(fmt::format("close {} of relive's", own.value), SYS_close, {static_cast<std::uint64_t>(own.value)},
                    Program::OnError::go_on);
  control.agreement = session_->takes_part() ? session_->agreement_address().value : 0;
  RELIVE_TRY(put_program(arena(), program, control.commit));
  std::vector<std::uint64_t> surplus;
  for (const ThreadGoal& goal : goals)
    if (goal.surplus && goal.tid != driver_) surplus.push_back(state_->blocks.at(goal.tid).piece.there.value);
  control.surplus = RELIVE_TRY(arena().put(std::as_bytes(std::span(surplus)))).value;
  control.surplus_count = surplus.size();
  RELIVE_TRY(fault_point("commit: park threads"));
  for (const task::FrozenThread& thread : task_->threads()) {
    if (thread.tid == driver_ || thread.born_here) continue;  // these stand in the parasite already
    if (auto parked = park(thread); !parked) {
      unstage();
      return parked;
    }
  }
  if (control.agreement != 0) store_phase(control, wire::Phase::agreed);
  return {};
}

void Visit::unstage() {
  store_phase(arena().control(), wire::Phase::prepare);
  for (const task::FrozenThread& thread : task_->threads()) {
    if (thread.tid == driver_ || thread.born_here) continue;
    [[maybe_unused]] const auto given = give_back(thread);
  }
}

Result<void> Visit::carry_out(Program& program, std::vector<ThreadGoal>& goals) {
  wire::Control& control = arena().control();
  store_phase(control, wire::Phase::commit);
  state_->committed = true;
  [[maybe_unused]] const auto counted = fault_point("commit: decided");
  for (const ThreadGoal& goal : goals) {
    if (!goal.surplus) continue;
    control_end(goal.tid);
  }
  [[maybe_unused]] const auto counted_again = fault_point("commit: surplus threads ended");
  const TaskAddress commit_address = arena().control_address() + offsetof(wire::Control, commit);
  auto outcome = run_at(driver_, commit_address, control.commit);
  if (outcome)
    outcome = take_results(arena(), control.commit, program, fmt::format("inside task {}", task_->pid().value));
  if (!outcome) {
    break_off();
    return outcome;
  }
  [[maybe_unused]] const auto counted_last = fault_point("commit: carried out");
  return {};
}

void Visit::break_off() {
  state_->committed = true;
  state_->broken = true;
  store_phase(arena().control(), wire::Phase::broken);
}

Result<void> Visit::commit(Program& program, std::vector<ThreadGoal>& goals) {
  RELIVE_TRY(stage(program, goals));
  if (const auto last = fault_point("commit: point of no return"); !last) {
    unstage();
    return last;
  }
  return carry_out(program, goals);
}

Result<Visit> Visit::hold(task::FrozenTask& task, Session& session, std::span<const ThreadGoal> goals) {
  Visit visit(task, session);
  visit.take_arena();
  Arena& arena = session.arena();
  for (const ThreadGoal& goal : goals) {
    const TaskAddress frame = RELIVE_TRY(put_frame(arena, goal.wanted));
    auto block = RELIVE_TRY(make_room(arena, goal.tid, kThreadStack, frame));
    block.value().wanted_frame = frame.value;
    block.value().driver = goal.tid == visit.driver_ ? 1 : 0;
    visit.state_->blocks.emplace(goal.tid, block);
  }
  arena.control().agreement = session.agreement_address().value;
  store_phase(arena.control(), wire::Phase::agreed);
  visit.state_->holds = true;
  RELIVE_TRY(fault_point("commit: hold a task at rest"));
  for (const task::FrozenThread& thread : task.threads()) RELIVE_TRY(visit.park(thread));
  return visit;
}

Result<void> Visit::park(const task::FrozenThread& thread) {
  const ThreadRoom& block = state_->blocks.at(thread.tid);
  RELIVE_TRY(
      task_->set_registers(thread.tid, enter(thread.registers, state_->code + wire::kLeaveEntry, arena(), block)));
  return task_->set_signal_mask(thread.tid, ~0ULL);
}

// Lets a surplus thread end and waits until its id is free. phase is commit: it waits for `done` unless told otherwise.
void Visit::control_end(Tid tid) {
  ThreadRoom& block = state_->blocks.at(tid);
  Program end;
  end.syscall("set_tid_address 0", SYS_set_tid_address, {0}, Program::OnError::go_on);
  end.syscall("set_robust_list 0", SYS_set_robust_list, {0, 24}, Program::OnError::go_on);
  // Whoever finishes the commit, should the keeper die now, is to know that this one needs no waiting for.
  constexpr std::uint32_t kGone = 1;
  const auto gone_value = arena().put_value(kGone);
  if (!gone_value) return;
  end.add("gone", wire::Kind::save_bytes,
          {block.piece.there.value + offsetof(wire::ThreadBlock, gone), gone_value->value, sizeof kGone});
  end.syscall("exit", SYS_exit, {0}, Program::OnError::go_on);
  const auto piece = arena().take(sizeof(wire::Program));
  if (!piece || !put_program(arena(), end, *reinterpret_cast<wire::Program*>(piece->here))) return;
  const task::FrozenThread* thread = task_->find(tid);
  if (thread == nullptr) return;
  user_regs_struct registers = enter(thread->registers, state_->code + wire::kRunEntry, arena(), block);
  registers.rdi = piece->there.value;
  if (!task_->set_registers(tid, registers)) return;
  if (::ptrace(PTRACE_CONT, tid.value, nullptr, nullptr) == 0) [[maybe_unused]]
    const auto gone = task_->wait_gone(tid);
}

// Lets a thread of a task that job control has stopped go to its frame under our hand: detached, it stays stopped
// there.
Result<void> Visit::run_to_goal(Tid tid) {
  constexpr std::uint64_t kSigreturn = 15;
  for (;;) {
    const int status = RELIVE_TRY(task_->run_until_stop(tid, PTRACE_SYSCALL));
    if (WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
    if (RELIVE_TRY(task_->registers(tid)).orig_rax == kSigreturn) break;
  }
  while (WSTOPSIG(RELIVE_TRY(task_->run_until_stop(tid, PTRACE_SYSCALL))) != (SIGTRAP | 0x80)) {
  }
  return {};
}

bool Visit::committed() const { return state_->committed; }
bool Visit::broken() const { return state_->broken; }

Result<void> Visit::depart() {
  if (!state_->committed || state_->departed) return {};
  state_->departed = true;
  wire::Control& control = arena().control();
  if (state_->broken) {
    ::kill(task_->pid().value, SIGSTOP);
    task_->resume();
    return {};
  }
  store_phase(control, wire::Phase::done);
  std::vector<const ThreadRoom*> waiting;
  for (const task::FrozenThread& thread : task_->threads()) waiting.push_back(&state_->blocks.at(thread.tid));
  for (const task::FrozenThread& thread : std::vector(task_->threads().begin(), task_->threads().end()))
    if (thread.job_stopped) RELIVE_TRY(run_to_goal(thread.tid));
  task_->resume();
  const auto all_gone = [&] {
    return std::ranges::all_of(
        waiting, [](const ThreadRoom* block) { return __atomic_load_n(&block->value().gone, __ATOMIC_ACQUIRE) != 0; });
  };
  const std::uint64_t deadline = now_ns() + 2'000'000'000;
  for (unsigned tries = 0; !all_gone(); ++tries) {
    if (now_ns() > deadline) break;  // starved: it goes when it runs
    if (tries < 200)
      ::sched_yield();
    else {
      const timespec pause{.tv_sec = 0, .tv_nsec = 100'000};
      ::nanosleep(&pause, nullptr);
      const auto state = task::read_proc(task_->pid(), "status");
      if (!state && all_gone()) break;  // it went its way, and that was to its end
      if (!state) return fail(ErrorKind::task_died, fmt::format("task {} ended as it was let go", task_->pid().value));
      for (const ThreadRoom* block : waiting) {
        if (block->value().program.failed < 0) continue;
        state_->broken = true;
        return fail(ErrorKind::system, fmt::format("thread {} could not take its last step (operation {})",
                                                   block->value().tid, block->value().program.failed));
      }
      if (task::status_field(*state, "State").starts_with("T")) break;
    }
  }
  return {};
}

}  // namespace relive::parasite
