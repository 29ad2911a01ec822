#include "diff/threads.h"

#include <algorithm>
#include <cstring>
#include <string>

#include <fmt/format.h>

#include "diff/credentials.h"

namespace relive::diff {

namespace {

using model::Thread;

const Thread* find(const std::vector<Thread>& threads, model::Tid tid) {
  const auto at = std::ranges::find(threads, tid, &Thread::tid);
  return at == threads.end() ? nullptr : &*at;
}

std::string name_of(const Thread& thread) { return fmt::format("thread {} ({})", thread.tid.value, thread.name); }

bool same_registers(const Thread& a, const Thread& b) {
  return std::memcmp(&a.registers, &b.registers, sizeof a.registers) == 0 && a.xstate == b.xstate;
}

// The parts of a thread that a person tells apart, newest state second.
std::vector<std::string> changes(const Thread& wanted, const Thread& living) {
  std::vector<std::string> out;
  if (wanted.registers.rip != living.registers.rip || wanted.registers.rsp != living.registers.rsp)
    out.push_back(fmt::format("stands at {:#x} -> {:#x}", wanted.registers.rip, living.registers.rip));
  else if (!same_registers(wanted, living))
    out.emplace_back("registers");
  if (wanted.signal_mask != living.signal_mask)
    out.push_back(fmt::format("signal mask {:#x} -> {:#x}", wanted.signal_mask, living.signal_mask));
  if (wanted.pending != living.pending)
    out.push_back(fmt::format("{} pending signals -> {}", wanted.pending.size(), living.pending.size()));
  if (living.inside_known) {
    if (wanted.name != living.name) out.push_back(fmt::format("name {} -> {}", wanted.name, living.name));
    if (wanted.alternate_stack != living.alternate_stack) out.emplace_back("alternate signal stack");
    if (wanted.clear_child_tid != living.clear_child_tid) out.emplace_back("clear_child_tid address");
    if (wanted.parent_death_signal != living.parent_death_signal)
      out.push_back(
          fmt::format("parent-death signal {} -> {}", wanted.parent_death_signal, living.parent_death_signal));
    if (wanted.timer_slack_ns != living.timer_slack_ns)
      out.push_back(fmt::format("timer slack {} ns -> {} ns", wanted.timer_slack_ns, living.timer_slack_ns));
  }
  if (wanted.robust_list != living.robust_list) out.emplace_back("robust list");
  if (wanted.rseq != living.rseq) out.emplace_back("rseq registration");
  if (wanted.scheduling.nice != living.scheduling.nice)
    out.push_back(fmt::format("nice {} -> {}", wanted.scheduling.nice, living.scheduling.nice));
  else if (wanted.scheduling != living.scheduling)
    out.push_back(fmt::format("scheduling policy {} -> {}", wanted.scheduling.policy, living.scheduling.policy));
  if (wanted.affinity != living.affinity) out.emplace_back("CPU affinity");
  if (wanted.io_priority != living.io_priority)
    out.push_back(fmt::format("I/O priority {:#x} -> {:#x}", wanted.io_priority, living.io_priority));
  return out;
}

}  // namespace

ThreadPlan plan_threads(const std::vector<Thread>& wanted, const std::vector<Thread>& living, bool blank) {
  ThreadPlan plan;
  const auto refuse = [&](const Thread& want, Refusal refusal) {
    refusal.object = name_of(want) + ": " + refusal.object;
    plan.refusals.push_back(std::move(refusal));
  };
  const auto give_up = [&](const Thread& want, const Thread& has) {
    RightsPlan rights = plan_rights(want, has);
    if (rights.refusal) refuse(want, *std::move(rights.refusal));
    if (!rights.steps.empty()) plan.rights.emplace(want.tid, std::move(rights.steps));
  };
  for (const Thread& want : wanted) {
    const Thread* lives = find(living, want.tid);
    if (lives == nullptr) {
      plan.differences.push_back(
          {.family = Family::thread, .sign = Sign::removed, .object = name_of(want), .text = "ended since"});
      plan.missing.push_back(want.tid);
      ++plan.changed;
      if (!living.empty()) {  // it will have the rights of the one that makes it
        Thread maker = living.front();
        if (const Thread* const then = find(wanted, maker.tid); !maker.inside_known && then != nullptr)
          maker.secure_bits = then->secure_bits;
        give_up(want, maker);
      }
      continue;
    }
    if (blank) {
      give_up(want, *lives);
    } else if (auto refusal = compare_credentials(want.credentials, lives->credentials)) {
      refuse(want, *std::move(refusal));
    }
    const std::vector<std::string> texts = changes(want, *lives);
    for (const std::string& text : texts)
      plan.differences.push_back(
          {.family = Family::thread, .sign = Sign::changed, .object = name_of(want), .text = text});
    if (!texts.empty()) ++plan.changed;
  }
  for (const Thread& lives : living) {
    if (find(wanted, lives.tid) != nullptr) continue;
    plan.differences.push_back(
        {.family = Family::thread, .sign = Sign::added, .object = name_of(lives), .text = "born since"});
    plan.surplus.push_back(lives.tid);
    ++plan.changed;
  }
  if (!wanted.empty() && std::ranges::find(plan.missing, wanted.front().tid) != plan.missing.end())
    plan.refusals.push_back({.object = name_of(wanted.front()),
                             .reason = "the thread group leader has ended since; a task can never get its leader back",
                             .hint = "snapshot again, or restart the program"});
  return plan;
}

}  // namespace relive::diff
