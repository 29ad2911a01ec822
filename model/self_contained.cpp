#include "model/self_contained.h"

#include <fmt/format.h>

namespace relive::model {

Words words(const EventCounter& counter) {
  return {.kind = "eventfd", .detail = fmt::format("count {}", counter.count), .phrase = {}};
}
bool same_object(const EventCounter& a, const EventCounter& b) { return a.id == b.id; }

Words words(const TimerFile& timer) {
  std::string detail = timer.left_ns == 0 ? "disarmed" : "armed";
  if (timer.ticks != 0) detail += fmt::format(", {} unread", timer.ticks);
  return {.kind = "timerfd", .detail = std::move(detail), .phrase = {}};
}
bool same_object(const TimerFile& /*a*/, const TimerFile& /*b*/) { return false; }

Words words(const SignalFile& file) {
  return {.kind = "signalfd", .detail = fmt::format("mask {:x}", file.mask), .phrase = {}};
}
bool same_object(const SignalFile& /*a*/, const SignalFile& /*b*/) { return false; }

Words words(const ProcessHandle& handle) {
  if (handle.pid <= 0) return {.kind = "pidfd", .detail = handle.pid == 0 ? "unseen" : "ended", .phrase = {}};
  return {.kind = "pidfd",
          .detail = fmt::format("{} {}", handle.thread ? "thread" : "process", handle.pid),
          .phrase = fmt::format("pidfd of {} {}", handle.thread ? "thread" : "process", handle.pid)};
}
// Two handles of one process are two open files.
bool same_object(const ProcessHandle& /*a*/, const ProcessHandle& /*b*/) { return false; }

Words words(const Tunnel& tunnel) {
  if (tunnel.interface.empty()) return {.kind = "tun device", .detail = "no interface", .phrase = {}};
  return {.kind = "tun device", .detail = tunnel.interface, .phrase = "tun device of " + tunnel.interface};
}
bool same_object(const Tunnel& a, const Tunnel& b) { return !a.interface.empty() && a.interface == b.interface; }

}  // namespace relive::model
