#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>

#include "base/unique_fd.h"
#include "capture/fdinfo.h"
#include "capture/opened.h"
#include "task/timer_ioctl.h"

namespace relive::capture {

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

// May unread expirations be put back? Asked of a timer of ours.
bool ticks_can_be_set() {
  static const bool can = [] {
    const UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    const std::uint64_t one = 1;
    return ::ioctl(timer.get(), task::kSetTimerTicks, &one) == 0;
  }();
  return can;
}

// "(4, 999838530)": seconds and nanoseconds.
Result<std::int64_t> parse_time(std::string_view fdinfo, std::string_view name) {
  const std::size_t at = fdinfo.find(name);
  const std::size_t open = at == std::string_view::npos ? at : fdinfo.find('(', at);
  const std::size_t comma = open == std::string_view::npos ? open : fdinfo.find(',', open);
  if (comma == std::string_view::npos)
    return fail(ErrorKind::system, fmt::format("fdinfo of a timerfd tells no {}", name));
  return static_cast<std::int64_t>(number_in(fdinfo.substr(open + 1), 10)) * kSecond +
         static_cast<std::int64_t>(number_in(fdinfo.substr(comma + 1), 10));
}

}  // namespace

Result<model::FileObject> read_timer(const Opened& opened) {
  model::TimerFile timer = RELIVE_TRY(parse_timer(RELIVE_TRY(opened.fdinfo())));
  // A periodic timer that has expired stands still until it is looked at: then the periods that have passed since are
  // counted and it runs on (do_timerfd_gettime() of Linux). A read would tell the same before and after. And fdinfo is
  // not written in one instant: one that was about to expire is asked again.
  if (timer.ticks != 0 || timer.left_ns == 0) {
    itimerspec unused{};
    if (::timerfd_gettime(opened.ours, &unused) != 0) return fail_errno("timerfd_gettime", opened.link);
    timer = RELIVE_TRY(parse_timer(RELIVE_TRY(opened.fdinfo())));
  }
  if (timer.ticks != 0 && !ticks_can_be_set()) {
    return model::FileObject(model::UnhandledFile{
        "timerfd with unread expirations (this kernel lacks CONFIG_CHECKPOINT_RESTORE and cannot give them back)"});
  }
  return model::FileObject(timer);
}

Result<model::TimerFile> parse_timer(std::string_view fdinfo) {
  const auto clock = word_after(fdinfo, "clockid:");
  const auto ticks = word_after(fdinfo, "ticks:");
  const auto flags = word_after(fdinfo, "settime flags:");
  if (!clock || !ticks || !flags) return fail(ErrorKind::system, "fdinfo of a timerfd tells no clock");
  return model::TimerFile{.clock = static_cast<std::int32_t>(number_in(*clock, 10)),
                          .settime_flags = static_cast<std::uint32_t>(number_in(*flags, 8)),
                          .left_ns = RELIVE_TRY(parse_time(fdinfo, "it_value:")),
                          .interval_ns = RELIVE_TRY(parse_time(fdinfo, "it_interval:")),
                          .ticks = number_in(*ticks, 10)};
}

}  // namespace relive::capture
