// A thread: everything the kernel keeps per thread that a program can see.
#pragma once

#include <sys/user.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/ids.h"
#include "model/signals.h"

namespace relive::model {

// sigaltstack(2), as the thread itself sees it.
struct AlternateStack {
  TaskAddress base;
  std::int32_t flags = 0;
  std::uint64_t size = 0;
  bool operator==(const AlternateStack&) const = default;
};

// get_robust_list(2).
struct RobustList {
  TaskAddress head;
  std::uint64_t length = 0;
  bool operator==(const RobustList&) const = default;
};

// rseq(2), as PTRACE_GET_RSEQ_CONFIGURATION (Linux 5.13) tells it. area == 0: not registered.
struct Rseq {
  TaskAddress area;
  std::uint32_t size = 0;
  std::uint32_t signature = 0;
  std::uint32_t flags = 0;
  bool operator==(const Rseq&) const = default;
};

// sched_getattr(2); times in nanoseconds.
struct Scheduling {
  std::uint32_t policy = 0;
  std::uint64_t flags = 0;
  std::int32_t nice = 0;
  std::uint32_t priority = 0;
  std::uint64_t runtime = 0;
  std::uint64_t deadline = 0;
  std::uint64_t period = 0;
  bool operator==(const Scheduling&) const = default;
};

// /proc/PID/status of one thread: what relive compares and never lifts.
struct Credentials {
  std::array<std::uint32_t, 4> uids{};  // real, effective, saved, file system
  std::array<std::uint32_t, 4> gids{};
  std::vector<std::uint32_t> groups;
  std::array<std::uint64_t, 5> capabilities{};  // inheritable, permitted, effective, bounding, ambient
  bool no_new_privs = false;
  std::uint32_t seccomp_mode = 0;
  std::uint32_t seccomp_filters = 0;
  bool operator==(const Credentials&) const = default;
};

struct Thread {
  Tid tid;

  // Ready to be set: a thread that stood inside a system call is backed up so that it issues the call again, and a
  // thread inside an rseq critical section stands at its abort handler (design, section 9).
  user_regs_struct registers{};
  std::vector<std::byte> xstate;  // NT_X86_XSTATE, in the kernel's layout
  std::uint64_t signal_mask = 0;  // bit N-1 is signal N
  std::vector<QueuedSignal> pending;

  RobustList robust_list;
  Rseq rseq;

  // What only the thread itself can tell. A rollback does not ask: it states what shall be.
  bool inside_known = true;
  AlternateStack alternate_stack;
  TaskAddress clear_child_tid;
  std::int32_t parent_death_signal = 0;
  std::uint64_t timer_slack_ns = 0;
  std::uint32_t secure_bits = 0;  // PR_GET_SECUREBITS (capabilities(7))
  std::string name;               // comm, at most 15 bytes

  Scheduling scheduling;
  std::vector<std::uint64_t> affinity;  // CPU mask, 64 CPUs a word, no trailing zero words
  std::uint32_t io_priority = 0;        // ioprio_get(2)
  Credentials credentials;
};

}  // namespace relive::model
