// Objects that stand for themselves: one can be made anew from its description alone, refers to no other file, and
// nobody outside the task can tell whether it is still the same one. Counters, timers, sets of signals and the like.
//
// Such a kind is a struct with kSelfContained here, words() and same_object() beside it, a reader in capture/
// (opened.h), what differs in diff/self_contained.h, and how it is made and put right in apply/self_contained.h.
#pragma once

#include <cstdint>
#include <string>

#include "model/watches.h"
#include "model/words.h"

namespace relive::model {

template <class T>
concept SelfContained = requires { requires T::kSelfContained; };

// eventfd(2)
struct EventCounter {
  static constexpr bool kSelfContained = true;
  std::uint64_t id = 0;  // "eventfd-id" of fdinfo: two living counters never share it; the kernel uses it again
  std::uint64_t count = 0;
  bool semaphore = false;      // EFD_SEMAPHORE
  bool semaphore_told = true;  // false before Linux 6.5 (fdinfo "eventfd-semaphore"): it cannot be made again
  bool operator==(const EventCounter&) const = default;
};
Words words(const EventCounter& counter);

// timerfd_create(2). The kernel gives a timer no identity.
struct TimerFile {
  static constexpr bool kSelfContained = true;
  std::int32_t clock = 0;           // CLOCK_*
  std::uint32_t settime_flags = 0;  // TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET, as it was set last
  std::int64_t left_ns = 0;         // until it expires next; 0: it does not
  std::int64_t interval_ns = 0;
  std::uint64_t ticks = 0;  // expirations that nobody has read
  bool operator==(const TimerFile&) const = default;
};
Words words(const TimerFile& timer);

// signalfd(2). The signals themselves wait in the queues of the task and its threads, not in it.
struct SignalFile {
  static constexpr bool kSelfContained = true;
  std::uint64_t mask = 0;  // bit N-1 is signal N; SIGKILL and SIGSTOP never
  bool operator==(const SignalFile&) const = default;
};
Words words(const SignalFile& file);

// pidfd_open(2): a process, or a thread of one.
struct ProcessHandle {
  static constexpr bool kSelfContained = true;
  std::int32_t pid = 0;        // as relive sees it; 0: in a pid namespace that it does not see; -1: it has ended
  std::uint64_t identity = 0;  // task/process_identity.h
  bool thread = false;         // PIDFD_THREAD
  bool own = false;            // the task itself, or a thread of it
  bool operator==(const ProcessHandle&) const = default;
};
Words words(const ProcessHandle& handle);

// /dev/net/tun: one end of a tun or tap interface, which itself belongs to the system.
struct Tunnel {
  static constexpr bool kSelfContained = true;
  std::string path;         // of the device file
  std::string interface;    // "tun0"; empty: none is attached
  std::uint32_t flags = 0;  // IFF_TUN, IFF_TAP, IFF_NO_PI ..., as TUNGETIFF tells
  std::int32_t send_buffer = 0;
  std::int32_t header = 0;         // bytes of the header that IFF_VNET_HDR puts in front
  std::int32_t little_endian = 0;  // that header
  bool unread = false;             // packets that nobody can look at without taking them
  bool operator==(const Tunnel&) const = default;
};
Words words(const Tunnel& tunnel);

// Is it the very same kernel object, as far as the kernel tells at all? Where it tells nothing: false.
[[nodiscard]] bool same_object(const EventCounter& a, const EventCounter& b);
[[nodiscard]] bool same_object(const TimerFile& a, const TimerFile& b);
[[nodiscard]] bool same_object(const SignalFile& a, const SignalFile& b);
[[nodiscard]] bool same_object(const ProcessHandle& a, const ProcessHandle& b);
[[nodiscard]] bool same_object(const Tunnel& a, const Tunnel& b);

}  // namespace relive::model
