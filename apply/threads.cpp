#include "apply/threads.h"

#include <asm/prctl.h>
#include <linux/ioprio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "apply/rights.h"
#include "base/fault.h"
#include "task/kernel_structs.h"

namespace relive::apply {

namespace {

using model::Thread;
using parasite::Program;
using task::KernelSchedAttributes;
using task::KernelStack;

constexpr std::uint64_t kUnregister = 1;  // RSEQ_FLAG_UNREGISTER
constexpr std::uint64_t kIdsBytes = 8, kCriticalSectionBytes = 8, kTailOffset = 16, kTailBytes = 16;  // of struct rseq

const Thread* find(const std::vector<Thread>& threads, model::Tid tid) {
  const auto at = std::ranges::find(threads, tid, &Thread::tid);
  return at == threads.end() ? nullptr : &*at;
}

constexpr std::uint64_t word(std::int64_t value) { return static_cast<std::uint64_t>(value); }

// One setting of a thread, by its id, made in prepare because the kernel may say no; the inverse first.
Result<void> set_by_tid(Workshop& workshop, const std::string& what, long number,
                        std::initializer_list<std::uint64_t> before, std::initializer_list<std::uint64_t> after) {
  RELIVE_TRY(workshop.visit.record_undo(what + " (back)", number, before));
  RELIVE_TRY(fault_point(what));
  RELIVE_TRY(workshop.visit.syscall(what, number, after));
  return {};
}

Result<std::uint64_t> put_scheduling(parasite::Arena& arena, const model::Scheduling& scheduling) {
  const KernelSchedAttributes attributes{.size = sizeof(KernelSchedAttributes),
                                         .policy = scheduling.policy,
                                         .flags = scheduling.flags,
                                         .nice = scheduling.nice,
                                         .priority = scheduling.priority,
                                         .runtime = scheduling.runtime,
                                         .deadline = scheduling.deadline,
                                         .period = scheduling.period};
  return RELIVE_TRY(arena.put_value(attributes)).value;
}

Result<void> set_scheduling(Workshop& workshop, const Thread& want, const Thread& lives) {
  parasite::Arena& arena = workshop.visit.arena();
  const auto tid = word(want.tid.value);
  const auto name = [&](const char* what) { return fmt::format("{} of thread {}", what, want.tid.value); };
  if (want.scheduling != lives.scheduling)
    RELIVE_TRY(set_by_tid(workshop, name("scheduling"), SYS_sched_setattr,
                          {tid, RELIVE_TRY(put_scheduling(arena, lives.scheduling)), 0},
                          {tid, RELIVE_TRY(put_scheduling(arena, want.scheduling)), 0}));
  if (want.affinity != lives.affinity) {
    const auto put = [&](const std::vector<std::uint64_t>& mask) { return arena.put(std::as_bytes(std::span(mask))); };
    RELIVE_TRY(set_by_tid(workshop, name("affinity"), SYS_sched_setaffinity,
                          {tid, lives.affinity.size() * 8, RELIVE_TRY(put(lives.affinity)).value},
                          {tid, want.affinity.size() * 8, RELIVE_TRY(put(want.affinity)).value}));
  }
  if (want.io_priority != lives.io_priority)
    RELIVE_TRY(set_by_tid(workshop, name("I/O priority"), SYS_ioprio_set, {IOPRIO_WHO_PROCESS, tid, lives.io_priority},
                          {IOPRIO_WHO_PROCESS, tid, want.io_priority}));
  return {};
}

// What `want` needs that is not in a frame, done by the thread itself. `lives` is null for a thread made just now.
Result<void> write_program(parasite::Visit& visit, const Thread& want, const Thread* lives, bool signals_taken,
                           Program& program) {
  parasite::Arena& arena = visit.arena();
  const Thread fresh;  // what a new thread has
  const Thread& now = lives != nullptr ? *lives : fresh;
  const bool made = lives == nullptr;
  const bool state_all = made || !now.inside_known;
  const auto go_on = Program::OnError::go_on;

  if (!made && want.registers.fs_base != now.registers.fs_base)
    program.syscall("ARCH_SET_FS", SYS_arch_prctl, {ARCH_SET_FS, want.registers.fs_base});
  if (want.registers.gs_base != now.registers.gs_base)
    program.syscall("ARCH_SET_GS", SYS_arch_prctl, {ARCH_SET_GS, want.registers.gs_base});
  if (state_all || want.alternate_stack != now.alternate_stack) {
    const KernelStack stack{.base = want.alternate_stack.base.value,
                            .flags = want.alternate_stack.flags & ~1 /* SS_ONSTACK */,
                            .pad = 0,
                            .size = want.alternate_stack.size};
    program.syscall("sigaltstack", SYS_sigaltstack, {RELIVE_TRY(arena.put_value(stack)).value, 0});
  }
  if (want.rseq != now.rseq) {
    if (now.rseq.area.value != 0)
      program.syscall("rseq (unregister)", SYS_rseq,
                      {now.rseq.area.value, now.rseq.size, kUnregister, now.rseq.signature}, go_on);
    if (want.rseq.area.value != 0) {
      program.add("rseq critical section", wire::Kind::fill_zero,
                  {want.rseq.area.value + kIdsBytes, kCriticalSectionBytes});
      program.syscall("rseq", SYS_rseq, {want.rseq.area.value, want.rseq.size, 0, want.rseq.signature});
    }
  }
  if (want.robust_list != now.robust_list)
    program.syscall("set_robust_list", SYS_set_robust_list, {want.robust_list.head.value, want.robust_list.length},
                    go_on);
  if (!made && (state_all || want.clear_child_tid != now.clear_child_tid))
    program.syscall("set_tid_address", SYS_set_tid_address, {want.clear_child_tid.value});
  if (state_all || want.parent_death_signal != now.parent_death_signal)
    program.syscall("PR_SET_PDEATHSIG", SYS_prctl, {PR_SET_PDEATHSIG, word(want.parent_death_signal)});
  if (state_all || want.timer_slack_ns != now.timer_slack_ns)
    program.syscall("PR_SET_TIMERSLACK", SYS_prctl, {PR_SET_TIMERSLACK, want.timer_slack_ns}, go_on);
  if (state_all || want.name != now.name) {
    char name[16] = {};
    std::memcpy(name, want.name.data(), std::min<std::size_t>(want.name.size(), 15));
    program.syscall("PR_SET_NAME", SYS_prctl,
                    {PR_SET_NAME, RELIVE_TRY(arena.put(std::as_bytes(std::span(name)))).value});
  }
  if (want.pending != now.pending || signals_taken) {
    // The thread's own are dequeued before the task's, so that exactly these are taken.
    if (!now.pending.empty() && !signals_taken)
      program.add("take pending signals", wire::Kind::take_signals, {now.pending.size()}, go_on);
    for (const model::QueuedSignal& signal : want.pending)
      program.syscall(fmt::format("queue signal {}", signal.number()), SYS_rt_tgsigqueueinfo,
                      {word(visit.task().pid().value), word(want.tid.value), word(signal.number()),
                       RELIVE_TRY(arena.put(std::span(signal.info))).value},
                      go_on);
  }
  return {};
}

// Behind all else, which may need them.
Result<void> give_up_rights(parasite::Visit& visit, const std::vector<diff::RightsStep>& steps, const Thread& want,
                            std::int32_t dumpable, Program& program) {
  RELIVE_TRY(append_rights(visit.arena(), steps, program));
  program.syscall("PR_SET_PDEATHSIG", SYS_prctl, {PR_SET_PDEATHSIG, word(want.parent_death_signal)});
  // 2, for root alone, is what the kernel makes of it where fs.suid_dumpable says so: nobody can ask for it.
  if (dumpable != 2) program.syscall("PR_SET_DUMPABLE", SYS_prctl, {PR_SET_DUMPABLE, word(dumpable), 0, 0, 0});
  return {};
}

bool page_written(const tracking::PagePlan& pages, std::uint64_t address) {
  return std::ranges::any_of(pages.copies,
                             [&](const tracking::PagePlan::Copy& copy) {
                               return address >= copy.to && address < copy.to + copy.pages * kPageSize;
                             }) ||
         std::ranges::any_of(pages.drops, [&](const AddressRange& range) { return range.contains(address); });
}

}  // namespace

Result<void> prepare_threads(Workshop& workshop, const diff::ThreadPlan& plan, const std::vector<Thread>& wanted,
                             const std::vector<Thread>& living) {
  for (const model::Tid tid : plan.missing) {
    const Thread& want = *find(wanted, tid);
    RELIVE_TRY(fault_point(fmt::format("make thread {}", tid.value)));
    RELIVE_TRY(workshop.visit.create_thread(tid, want.registers.fs_base, want.clear_child_tid));
  }
  const Thread& maker = living.front();  // a new thread has the scheduling of the one that made it
  for (const Thread& want : wanted) {
    const Thread* lives = find(living, want.tid);
    RELIVE_TRY(set_scheduling(workshop, want, lives != nullptr ? *lives : maker));
  }
  return {};
}

Result<RseqKeeper> RseqKeeper::save(Workshop& workshop, const std::vector<Thread>& wanted,
                                    const std::vector<Thread>& living, const tracking::PagePlan& pages) {
  RseqKeeper keeper;
  for (const Thread& lives : living) {
    const Thread* want = find(wanted, lives.tid);
    if (want == nullptr || lives.rseq.area.value == 0 || want->rseq != lives.rseq ||
        !page_written(pages, lives.rseq.area.value))
      continue;
    const parasite::ArenaPiece piece = RELIVE_TRY(workshop.visit.arena().take(kTailOffset + kTailBytes));
    workshop.commit.add("keep rseq words", wire::Kind::save_bytes,
                        {piece.there.value, lives.rseq.area.value, kTailOffset + kTailBytes});
    keeper.areas_.push_back({.area = lives.rseq.area.value, .saved = piece.there.value});
  }
  return keeper;
}

void RseqKeeper::restore(Workshop& workshop) const {
  for (const Area& area : areas_) {
    workshop.commit.add("put rseq ids", wire::Kind::save_bytes, {area.area, area.saved, kIdsBytes});
    workshop.commit.add("no rseq critical section", wire::Kind::fill_zero,
                        {area.area + kIdsBytes, kCriticalSectionBytes});
    workshop.commit.add("put rseq words", wire::Kind::save_bytes,
                        {area.area + kTailOffset, area.saved + kTailOffset, kTailBytes});
  }
}

Result<std::vector<parasite::ThreadGoal>> thread_goals(parasite::Visit& visit, const diff::ThreadPlan& plan,
                                                       const std::vector<Thread>& wanted,
                                                       const std::vector<Thread>& living, bool driver_signals_taken,
                                                       std::int32_t dumpable) {
  std::vector<parasite::ThreadGoal> goals;
  for (const task::FrozenThread& frozen : visit.task().threads()) {
    parasite::ThreadGoal goal;
    goal.tid = frozen.tid;
    const Thread* want = find(wanted, frozen.tid);
    goal.surplus = want == nullptr;
    const Thread* surplus = goal.surplus ? find(living, frozen.tid) : nullptr;
    if (surplus != nullptr && surplus->rseq.area.value != 0)
      goal.program.syscall("rseq (unregister)", SYS_rseq,
                           {surplus->rseq.area.value, surplus->rseq.size, kUnregister, surplus->rseq.signature},
                           Program::OnError::go_on);
    if (want != nullptr) {
      goal.wanted = {.registers = want->registers, .xstate = want->xstate, .signal_mask = want->signal_mask};
      const bool signals_taken = driver_signals_taken && frozen.tid == visit.driver();
      RELIVE_TRY(write_program(visit, *want, find(living, frozen.tid), signals_taken, goal.program));
      if (const auto rights = plan.rights.find(frozen.tid); rights != plan.rights.end())
        RELIVE_TRY(give_up_rights(visit, rights->second, *want, dumpable, goal.program));
    }
    goals.push_back(std::move(goal));
  }
  return goals;
}

}  // namespace relive::apply
