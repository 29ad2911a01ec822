#include <fmt/format.h>

#include "diff/self_contained.h"

namespace relive::diff {

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

std::string armed_text(const model::TimerFile& timer) {
  const auto seconds = [](std::int64_t ns) { return static_cast<double>(ns) / static_cast<double>(kSecond); };
  if (timer.left_ns == 0) return "disarmed";
  if (timer.interval_ns == 0) return fmt::format("armed {:.1f} s", seconds(timer.left_ns));
  return fmt::format("armed {:.1f} s, every {:.3g} s", seconds(timer.left_ns), seconds(timer.interval_ns));
}

// Was it armed, disarmed or armed otherwise since? Not: has it run down since.
bool armed_anew(const model::TimerFile& wanted, const model::TimerFile& living) {
  if ((wanted.left_ns == 0) != (living.left_ns == 0) || wanted.interval_ns != living.interval_ns) return true;
  return wanted.interval_ns == 0 && living.left_ns > wanted.left_ns + kSecond;
}

}  // namespace

bool can_become(const model::TimerFile& wanted, const model::TimerFile& living) { return wanted.clock == living.clock; }

std::vector<std::string> changes(const model::TimerFile& wanted, const model::TimerFile& living) {
  std::vector<std::string> out;
  if (armed_anew(wanted, living)) out.push_back(fmt::format("{} -> {}", armed_text(wanted), armed_text(living)));
  if (wanted.settime_flags != living.settime_flags)
    out.push_back(fmt::format("set with flags {:#o} -> {:#o}", wanted.settime_flags, living.settime_flags));
  if (wanted.ticks != living.ticks)
    out.push_back(fmt::format("unread expirations {} -> {}", wanted.ticks, living.ticks));
  return out;
}

bool must_put_right(const model::TimerFile& wanted, const model::TimerFile& living) {
  return wanted != living || wanted.left_ns != 0;
}

CannotMake cannot_make(const model::TimerFile& /*wanted*/) { return {}; }

}  // namespace relive::diff
