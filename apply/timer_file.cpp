#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include <cstring>

#include "apply/self_contained.h"
#include "task/timer_ioctl.h"

namespace relive::apply {

namespace {

using parasite::Program;

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::uint32_t kCancelOnSet = 2;  // TFD_TIMER_CANCEL_ON_SET: timerfd_create(2)

timespec time_of(std::int64_t ns) { return {.tv_sec = ns / kSecond, .tv_nsec = ns % kSecond}; }

bool is_alarm(std::int32_t clock) { return clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM; }

// Setting a timer that wakes the machine needs CAP_WAKE_ALARM as making it does: found out by making one that is closed
// again at once.
Result<void> check_may_wake(FileMaker& maker, std::int32_t clock) {
  if (!is_alarm(clock)) return {};
  const auto lowest = RELIVE_TRY(maker.visit().next_descriptors(1));
  RELIVE_TRY(maker.visit().record_undo("close a timerfd", SYS_close, {FileMaker::number(lowest[0])}));
  Program program;
  program.syscall("try timerfd_create", SYS_timerfd_create, {static_cast<std::uint64_t>(clock), TFD_CLOEXEC},
                  Program::OnError::go_on);
  FileMaker::close_in(program, lowest[0]);
  RELIVE_TRY(maker.visit().run(program));
  if (program.result(0) >= 0) return {};
  return fail(ErrorKind::refused, "the task may not set a timer that wakes the machine any more",
              "this needs CAP_WAKE_ALARM");
}

// In the task, which may have a time namespace of its own. Alarm clocks show what the clocks below them show.
Result<std::int64_t> now_of(FileMaker& maker, std::int32_t clock) {
  if (clock == CLOCK_REALTIME_ALARM) clock = CLOCK_REALTIME;
  if (clock == CLOCK_BOOTTIME_ALARM) clock = CLOCK_BOOTTIME;
  const auto there = RELIVE_TRY(maker.visit().arena().take(sizeof(timespec)));
  RELIVE_TRY(maker.visit().syscall("clock_gettime", SYS_clock_gettime,
                                   {static_cast<std::uint64_t>(clock), there.there.value}));
  timespec now{};
  std::memcpy(&now, there.here, sizeof now);
  return now.tv_sec * kSecond + now.tv_nsec;
}

// The last operations of the commit: what is put back before takes none of the time that was left.
Result<void> set(FileMaker& maker, model::RemoteFd fd, const model::TimerFile& wanted) {
  std::int64_t value = wanted.left_ns;
  if (value != 0 && (wanted.settime_flags & TFD_TIMER_ABSTIME) != 0) value += RELIVE_TRY(now_of(maker, wanted.clock));
  const itimerspec times{.it_interval = time_of(wanted.interval_ns), .it_value = time_of(value)};
  const auto times_at = RELIVE_TRY(maker.visit().arena().put_value(times));
  // One that a step of the clock has cancelled since says so to this call too, and is armed all the same.
  const bool cancels = (wanted.settime_flags & kCancelOnSet) != 0;
  auto& late = maker.workshop().cleanup;
  late.syscall(fmt::format("set timerfd {}", fd.value), SYS_timerfd_settime,
               {FileMaker::number(fd), wanted.settime_flags, times_at.value, 0},
               cancels ? Program::OnError::go_on : Program::OnError::stop);
  if (wanted.ticks == 0) return {};
  const auto ticks_at = RELIVE_TRY(maker.visit().arena().put_value(wanted.ticks));
  late.syscall(fmt::format("timerfd {}: {} unread expirations", fd.value, wanted.ticks), SYS_ioctl,
               {FileMaker::number(fd), task::kSetTimerTicks, ticks_at.value},
               cancels ? Program::OnError::go_on : Program::OnError::stop);
  return {};
}

}  // namespace

Result<void> make(FileMaker& maker, std::size_t file, const model::TimerFile& wanted) {
  RELIVE_TRY(check_may_wake(maker, wanted.clock));
  RELIVE_TRY(
      maker.make_one(file, "timerfd", SYS_timerfd_create, {static_cast<std::uint64_t>(wanted.clock), TFD_CLOEXEC, 0}));
  return set(maker, maker.spare(file), wanted);
}

Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t /*flags*/, const model::TimerFile& wanted,
                       const model::TimerFile& /*living*/) {
  RELIVE_TRY(check_may_wake(maker, wanted.clock));
  return set(maker, fd, wanted);
}

}  // namespace relive::apply
