// Signals and timers of a task.
#pragma once

#include <array>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "model/ids.h"

namespace relive::model {

// A siginfo_t as the kernel hands it out (128 bytes, PTRACE_PEEKSIGINFO), in the order in which it was queued.
struct QueuedSignal {
  std::array<std::byte, 128> info{};
  [[nodiscard]] int number() const { return static_cast<int>(std::to_integer<unsigned>(info[0])); }
  bool operator==(const QueuedSignal&) const = default;
};

// rt_sigaction(2) in the kernel's own layout.
struct SignalAction {
  std::uint64_t handler = 0;  // 0: default, 1: ignore
  std::uint64_t flags = 0;
  std::uint64_t restorer = 0;
  std::uint64_t mask = 0;
  bool operator==(const SignalAction&) const = default;
};

inline constexpr std::size_t kSignalCount = 64;
using SignalActions = std::array<SignalAction, kSignalCount>;  // [N-1] is signal N

// setitimer(2): time left and interval, in microseconds. left == 0: disarmed.
struct IntervalTimer {
  std::int64_t left_us = 0;
  std::int64_t interval_us = 0;
  bool operator==(const IntervalTimer&) const = default;
};

// timer_create(2), from /proc/PID/timers and timer_gettime(2).
struct PosixTimer {
  std::int32_t id = 0;
  std::int32_t clock = 0;
  std::int32_t notify = 0;  // SIGEV_*
  std::int32_t signal = 0;
  std::uint64_t value = 0;  // sigev_value
  Tid target{};             // SIGEV_THREAD_ID
  std::int64_t left_ns = 0;
  std::int64_t interval_ns = 0;
  std::int32_t overrun = 0;
  bool operator==(const PosixTimer&) const = default;
};

}  // namespace relive::model
