#include "rollback/rest.h"

#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "base/log.h"
#include "base/number.h"
#include "capture/process.h"
#include "capture/threads.h"
#include "parasite/frame.h"
#include "rollback/member.h"
#include "rollback/shared_memory.h"
#include "task/procfs.h"
#include "tracking/populated.h"

namespace relive::rollback {

namespace {

constexpr std::uint64_t kLeastRseq = 32;  // struct rseq of Linux 4.18
constexpr int kRestartSyscall = 219;
constexpr std::int64_t kRestartBlock = -516;  // ERESTART_RESTARTBLOCK

std::optional<std::uint64_t> number_in(std::string_view status, std::string_view name, int base) {
  return parse_number<std::uint64_t>(task::status_field(status, name), base);
}

std::optional<std::uint64_t> sleeps_in(std::string_view status) {
  return number_in(status, "voluntary_ctxt_switches", 10);
}

// Does it stand in the call in which it was let go?
bool is_in_its_call(const task::FrozenThread& now, const model::Thread& wanted) {
  user_regs_struct registers = now.registers;
  // Which of the few calls that are restarted in this way it was, its place in the program and its arguments tell.
  if (static_cast<std::int64_t>(registers.rax) == kRestartBlock && registers.orig_rax == kRestartSyscall)
    registers.orig_rax = wanted.registers.rax;
  registers = parasite::reissue_system_call(registers);
  return std::memcmp(&registers, &wanted.registers, sizeof registers) == 0 && now.signal_mask == wanted.signal_mask;
}

bool is_scheduled_as(model::Tid tid, const model::Thread& wanted) {
  model::Thread now;
  now.tid = tid;
  return capture::read_scheduling(now) && now.scheduling == wanted.scheduling && now.affinity == wanted.affinity &&
         now.io_priority == wanted.io_priority;
}

// What others may have set: prlimit(2) may be used on somebody else's task by few, the text of it read by all who
// trace.
std::optional<std::string> limits_of(model::Pid pid) {
  auto text = task::read_proc(pid, "limits");
  if (!text) return std::nullopt;
  return *std::move(text);
}

timeval microseconds(std::int64_t count) { return {.tv_sec = count / 1'000'000, .tv_usec = count % 1'000'000}; }

// The page around a thread's rseq area is as stored, but for that area.
bool is_as_stored(const task::FrozenTask& task, const tracking::PageStore& store, const tracking::PageMap& pages,
                  std::uint64_t page, std::span<const AddressRange> areas) {
  const auto slot = pages.find(page);
  std::array<std::byte, kPageSize> now{};
  if (!slot || !task.read(model::TaskAddress{page}, now)) return false;
  std::array<std::byte, kPageSize> then{};
  std::ranges::copy(store.bytes(*slot), then.begin());
  for (const AddressRange& area : areas) {
    for (std::uint64_t at = std::max(area.begin, page); at < std::min(area.end, page + kPageSize); ++at)
      now[at - page] = then[at - page];
  }
  return now == then;
}

// Why the task may have run since; empty: it has not, and `rest` is how it stands now.
std::string_view why_not(const Member& member, task::FrozenTask& task, const model::Task& wanted,
                         const tracking::PageMap& pages, Rest& rest) {
  if (!member.rest || member.rest->snapshot != rest.snapshot) return "it was not let go as the snapshot has it";
  if (!member.tracker || !member.store) return "nothing of it is known";
  const auto threads = task.threads();
  if (threads.size() != wanted.threads.size() || threads.size() != member.rest->threads.size()) return "other threads";
  std::vector<AddressRange> areas;
  std::vector<AddressRange> area_pages;
  for (const task::FrozenThread& thread : threads) {
    const auto then = std::ranges::find(wanted.threads, thread.tid, &model::Thread::tid);
    const auto before = std::ranges::find(member.rest->threads, thread.tid, &Rest::Thread::tid);
    if (then == wanted.threads.end() || before == member.rest->threads.end()) return "other threads";
    if (thread.job_stopped || !is_in_its_call(thread, *then)) return "a thread stands elsewhere";
    const auto status = task.status(thread.tid);
    const auto sleeps = status ? sleeps_in(*status) : std::nullopt;
    if (!sleeps || *sleeps != before->sleeps + 2) return "a thread has woken up";
    if (!then->pending.empty() || number_in(*status, "SigPnd", 16) != 0 || number_in(*status, "ShdPnd", 16) != 0)
      return "a signal is pending";
    if (!is_scheduled_as(thread.tid, *then)) return "a thread is scheduled in another way";
    rest.threads.push_back({.tid = thread.tid, .sleeps = *sleeps});
    if (then->rseq.area.value == 0) continue;
    const AddressRange area{then->rseq.area.value,
                            then->rseq.area.value + std::max<std::uint64_t>(then->rseq.size, kLeastRseq)};
    areas.push_back(area);
    area_pages.push_back({area.begin & ~(kPageSize - 1), (area.end + kPageSize - 1) & ~(kPageSize - 1)});
  }
  auto limits = limits_of(task.pid());
  if (!limits || *limits != member.rest->limits) return "it has other limits";
  rest.limits = *std::move(limits);
  const auto adjustment = capture::read_oom_adjustment(task.pid());
  if (!adjustment || *adjustment != wanted.process.oom_score_adj) return "it has another oom adjustment";
  const tracking::Ranges beside = tracking::normalize(std::move(area_pages));
  if (!member.tracker->untouched(beside)) return "its memory was written";
  for (const AddressRange& range : beside)
    for (std::uint64_t page = range.begin; page < range.end; page += kPageSize)
      if (!is_as_stored(task, *member.store, pages, page, areas)) return "the page of a thread's rseq area was written";
  return {};
}

}  // namespace

void note_rest(Member& member, task::FrozenTask& task, std::uint64_t snapshot) {
  Rest rest{.snapshot = snapshot, .threads = {}, .limits = {}};
  member.rest.reset();
  auto limits = limits_of(task.pid());
  if (!limits) return;
  rest.limits = *std::move(limits);
  for (const task::FrozenThread& thread : task.threads()) {
    const auto status = task::read_proc(task.pid(), fmt::format("task/{}/status", thread.tid.value));
    const auto sleeps = status ? sleeps_in(*status) : std::nullopt;
    if (!sleeps) return;
    rest.threads.push_back({.tid = thread.tid, .sleeps = *sleeps});
  }
  member.rest = std::move(rest);
}

bool is_at_rest(Member& member, task::FrozenTask& task, std::uint64_t snapshot, const model::Task& wanted,
                const tracking::PageMap& pages) {
  Rest rest{.snapshot = snapshot, .threads = {}, .limits = {}};
  const std::string_view reason = why_not(member, task, wanted, pages, rest);
  if (!reason.empty()) {
    log_debug(fmt::format("task {} is looked at: {}", task.pid().value, reason));
    return false;
  }
  member.rest = std::move(rest);
  return true;
}

bool has_timers(const model::Process& wanted) {
  return std::ranges::any_of(wanted.interval_timers, [](const model::IntervalTimer& timer) {
    return timer.left_us != 0 || timer.interval_us != 0;
  });
}

Result<void> put_timers_back(Member& member, task::FrozenTask& task, const model::Process& wanted) {
  {
    parasite::Visit visit = RELIVE_TRY(parasite::Visit::begin(task, *member.session));
    parasite::Program program;
    for (std::size_t which = 0; which < wanted.interval_timers.size(); ++which) {
      const model::IntervalTimer& timer = wanted.interval_timers[which];
      if (timer.left_us == 0 && timer.interval_us == 0) continue;
      const itimerval value{.it_interval = microseconds(timer.interval_us), .it_value = microseconds(timer.left_us)};
      program.syscall("setitimer", SYS_setitimer, {which, RELIVE_TRY(visit.arena().put_value(value)).value, 0});
    }
    RELIVE_TRY(visit.run(program));
  }
  note_rest(member, task, member.rest->snapshot);
  return {};
}

bool can_rest(const model::Task& wanted, const tracking::Ranges& not_its_own) {
  if (!wanted.process.timers.empty() || !wanted.process.pending.empty()) return false;
  const model::Memory own = own_part(wanted.memory, not_its_own);
  if (!tracking::ranges_with(own, {tracking::Care::shared}).empty()) return false;
  // A stack that is not tracked would not show that something ran on it.
  const tracking::Ranges tracked =
      tracking::ranges_with(own, {tracking::Care::private_anonymous, tracking::Care::private_file});
  return std::ranges::all_of(wanted.threads, [&](const model::Thread& thread) {
    return std::ranges::any_of(tracked,
                               [&](const AddressRange& range) { return range.contains(thread.registers.rsp); });
  });
}

}  // namespace relive::rollback
