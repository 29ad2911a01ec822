// What belongs to a task as a whole, apart from memory, descriptors and threads.
#pragma once

#include <sys/resource.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "model/ids.h"
#include "model/signals.h"

namespace relive::model {

struct Limit {
  std::uint64_t soft = 0;
  std::uint64_t hard = 0;
  bool operator==(const Limit&) const = default;
};

// A directory the task stands in (cwd, root), by path and by identity.
struct Directory {
  std::string path;  // what readlink of /proc/PID/cwd says
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  bool operator==(const Directory&) const = default;
};

// What a task may do now. Belongs to the living side only: plans need it to refuse before the first change.
struct Powers {
  bool raise_hard_limits = true;                         // CAP_SYS_RESOURCE
  bool change_root = true;                               // CAP_SYS_CHROOT
  bool choose_timer_ids = true;                          // PR_TIMER_CREATE_RESTORE_IDS (Linux 6.15)
  bool operator==(const Powers&) const { return true; }  // two tasks are alike whatever they may do
};

// Namespaces of a task, by their names below /proc/PID/ns (namespaces(7)).
inline constexpr std::array<const char*, 10> kNamespaces{
    "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"};

struct Process {
  SignalActions actions{};
  std::vector<QueuedSignal> pending{};             // queued for the task, not for one thread
  std::array<IntervalTimer, 3> interval_timers{};  // ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF
  std::vector<PosixTimer> timers{};                // by id, ascending
  std::array<Limit, RLIM_NLIMITS> limits{};        // [RLIMIT_*]
  Directory cwd{};
  Directory root{};
  std::uint32_t umask = 0;
  std::uint64_t personality = 0;
  std::int32_t dumpable = 0;
  std::int32_t oom_score_adj = 0;
  bool child_subreaper = false;
  std::uint32_t thp_disable =
      0;  // as PR_GET_THP_DISABLE answers: 1 disabled, 3 disabled but where advised (Linux 6.18)
  Powers powers{};
  // Named only to be compared; a change of these is refused (but parent, group and session: model/forest.h). Ids as the
  // task itself sees them, in its own pid namespace.
  std::string executable{};
  std::uint64_t executable_device = 0;
  std::uint64_t executable_inode = 0;
  std::int32_t parent = 0;
  std::int32_t group = 0;
  std::int32_t session = 0;
  std::int32_t controlling_terminal = 0;  // its device number (tty_nr of proc_pid_stat(5)); 0: none
  std::array<std::uint64_t, kNamespaces.size()> namespaces{};  // inode numbers; 0: this kernel has none of that kind
  bool operator==(const Process&) const = default;
};

}  // namespace relive::model
