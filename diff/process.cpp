#include "diff/process.h"

#include <fmt/format.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <map>
#include <string_view>

#include "base/overloaded.h"

namespace relive::diff {

namespace {

constexpr std::int64_t kSecondUs = 1'000'000;
constexpr std::int64_t kSecondNs = 1'000'000'000;
constexpr std::int32_t kOwnThreadClock = -2;  // CLOCK_THREAD_CPUTIME_ID as /proc/PID/timers shows it
constexpr int kDefault = 0;
constexpr int kIgnore = 1;

std::string action_text(const model::SignalAction& action) {
  if (action.handler == kDefault) return "default";
  if (action.handler == kIgnore) return "ignore";
  return fmt::format("handler {:#x}", action.handler);
}

// As above, with what tells two actions of one handler apart.
std::string full_action_text(const model::SignalAction& action) {
  return fmt::format("{} (flags {:#x}, mask {:016x})", action_text(action), action.flags, action.mask);
}

std::string limit_value(std::uint64_t value) { return value == RLIM_INFINITY ? "unlimited" : fmt::to_string(value); }

std::string limit_text(const model::Limit& limit) {
  return fmt::format("{}/{}", limit_value(limit.soft), limit_value(limit.hard));
}

std::string_view interval_timer_name(int which) {
  switch (which) {
    case ITIMER_REAL:
      return "itimer real";
    case ITIMER_VIRTUAL:
      return "itimer virtual";
    default:
      return "itimer prof";
  }
}

std::string armed_text(std::int64_t left, std::int64_t interval, std::int64_t second) {
  if (left == 0) return "off";
  const auto seconds = [&](std::int64_t value) { return static_cast<double>(value) / static_cast<double>(second); };
  if (interval == 0) return fmt::format("armed {:.1f} s", seconds(left));
  return fmt::format("armed {:.1f} s, every {:.3g} s", seconds(left), seconds(interval));
}

std::string armed_text(const model::IntervalTimer& timer) {
  return armed_text(timer.left_us, timer.interval_us, kSecondUs);
}
std::string armed_text(const model::PosixTimer& timer) {
  return armed_text(timer.left_ns, timer.interval_ns, kSecondNs);
}

// Was a timer armed, disarmed or armed otherwise since? Not: has it run down since.
bool armed_anew(std::int64_t wanted_left, std::int64_t wanted_interval, std::int64_t left, std::int64_t interval,
                std::int64_t second) {
  if ((wanted_left == 0) != (left == 0) || wanted_interval != interval) return true;
  return interval == 0 && left > wanted_left + second;
}

class Planner {
 public:
  Planner(const model::Process& wanted, const model::Process& living, std::span<const model::Tid> threads, bool requeue)
      : wanted_(wanted), living_(living), threads_(threads), requeue_(requeue) {}

  // The order is the order of the commit program: timers last.
  ProcessPlan plan() && {
    identity();
    signals();
    directories();
    attributes();
    limits();
    posix_timers();
    interval_timers();
    return std::move(plan_);
  }

 private:
  void difference(Family family, std::string object, std::string text, Sign sign = Sign::changed) {
    plan_.differences.push_back({.family = family, .sign = sign, .object = std::move(object), .text = std::move(text)});
  }
  void refuse(std::string object, std::string reason, std::string hint = {}) {
    plan_.refusals.push_back({.object = std::move(object), .reason = std::move(reason), .hint = std::move(hint)});
  }
  void operation(ProcessOperation operation) { plan_.operations.push_back(std::move(operation)); }

  void identity() {
    const auto same = [&](std::string_view what, const auto& before, const auto& now, std::string_view hint) {
      if (before != now)
        refuse(std::string(what), fmt::format("changed since the snapshot: {} -> {}", before, now), std::string(hint));
    };
    constexpr std::string_view kNewSnapshot = "a task cannot go back there: take a new snapshot";
    if (wanted_.executable_device != living_.executable_device ||
        wanted_.executable_inode != living_.executable_inode) {
      refuse("executable", fmt::format("changed since the snapshot: {} -> {}", wanted_.executable, living_.executable),
             "the task executed another program: take a new snapshot");
    }
    for (std::size_t i = 0; i < wanted_.namespaces.size(); ++i) {
      same(fmt::format("{} namespace", model::kNamespaces[i]), wanted_.namespaces[i], living_.namespaces[i],
           kNewSnapshot);
    }
    // One that is lost is noted: it may have hung up, and mostly has (diff/terminals.h refuses the rest).
    if (living_.controlling_terminal == 0 && wanted_.controlling_terminal != 0) {
      plan_.notes.emplace_back("the task has lost its controlling terminal since, which cannot come back");
    } else {
      same("controlling terminal", wanted_.controlling_terminal, living_.controlling_terminal, kNewSnapshot);
    }
  }

  void signals() {
    bool discards = false;  // the kernel drops pending signals as their action becomes one that ignores them
    for (std::size_t i = 0; i < model::kSignalCount; ++i) {
      const auto& before = wanted_.actions[i];
      const auto& now = living_.actions[i];
      if (before == now) continue;
      const int signal = static_cast<int>(i) + 1;
      const bool same_handler = before.handler == now.handler;
      difference(Family::signal, signal_name(signal),
                 same_handler ? fmt::format("action {} -> {}", full_action_text(before), full_action_text(now))
                              : fmt::format("action {} -> {}", action_text(before), action_text(now)));
      operation(SetSignalAction{.signal = signal, .action = before});
      discards = discards ||
                 std::ranges::any_of(wanted_.pending, [&](const auto& queued) { return queued.number() == signal; });
    }
    std::map<int, int> surplus;
    for (const auto& queued : living_.pending) ++surplus[queued.number()];
    for (const auto& queued : wanted_.pending) --surplus[queued.number()];
    for (const auto& [number, count] : surplus) {
      if (count == 0) continue;
      difference(Family::signal, signal_name(number),
                 fmt::format("pending for the task ({} {})", std::abs(count), count > 0 ? "more" : "fewer"),
                 count > 0 ? Sign::added : Sign::removed);
    }
    const bool changed = wanted_.pending != living_.pending;
    if (changed && std::ranges::all_of(surplus, [](const auto& entry) { return entry.second == 0; })) {
      difference(Family::signal, "pending signals", "queued anew");
    }
    // Setting a timer makes the kernel forget the signal that the timer itself has queued (Linux 6.13).
    const bool from_timer = std::ranges::any_of(wanted_.pending, [](const model::QueuedSignal& queued) {
      int code = 0;
      std::memcpy(&code, &queued.info[8], sizeof code);
      return code == SI_TIMER;
    });
    // A timer may fire between capture and commit; its signal must not outlive the timer's being set back.
    const bool may_fire =
        std::ranges::any_of(living_.interval_timers, [](const auto& timer) { return timer.left_us != 0; }) ||
        std::ranges::any_of(living_.timers, [](const auto& timer) { return timer.left_ns != 0; });
    if (changed || discards || from_timer || may_fire || requeue_) operation(RequeueSignals{.wanted = wanted_.pending});
  }

  void directories() {
    const auto moved = [](const model::Directory& before, const model::Directory& now) {
      return before.device != now.device || before.inode != now.inode;
    };
    const bool root_moved = moved(wanted_.root, living_.root);
    if (root_moved) {
      difference(Family::process, "root", fmt::format("{} -> {}", wanted_.root.path, living_.root.path));
      if (!living_.powers.change_root) {
        refuse(fmt::format("root directory {}", wanted_.root.path),
               "changed since the snapshot, and the task lacks CAP_SYS_CHROOT to go back");
      }
      operation(ChangeRoot{.path = wanted_.root.path});
    }
    if (moved(wanted_.cwd, living_.cwd))
      difference(Family::process, "cwd", fmt::format("{} -> {}", wanted_.cwd.path, living_.cwd.path));
    if (root_moved || moved(wanted_.cwd, living_.cwd)) operation(ChangeDirectory{.path = wanted_.cwd.path});
  }

  void attributes() {
    if (wanted_.umask != living_.umask) {
      difference(Family::process, "umask", fmt::format("{:04o} -> {:04o}", wanted_.umask, living_.umask));
      operation(SetUmask{.value = wanted_.umask});
    }
    if (wanted_.personality != living_.personality) {
      difference(Family::process, "personality",
                 fmt::format("{:#x} -> {:#x}", wanted_.personality, living_.personality));
      operation(SetPersonality{.value = wanted_.personality});
    }
    if (wanted_.oom_score_adj != living_.oom_score_adj) {
      difference(Family::process, "oom_score_adj",
                 fmt::format("{} -> {}", wanted_.oom_score_adj, living_.oom_score_adj));
      operation(SetOomScore{.living = living_.oom_score_adj, .wanted = wanted_.oom_score_adj});
    }
    if (wanted_.child_subreaper != living_.child_subreaper) {
      difference(Family::process, "child subreaper", wanted_.child_subreaper ? "on -> off" : "off -> on");
      operation(SetChildSubreaper{.value = wanted_.child_subreaper});
    }
    if (wanted_.thp_disable != living_.thp_disable) {
      difference(Family::process, "transparent huge pages disabled",
                 fmt::format("{} -> {}", wanted_.thp_disable, living_.thp_disable));
      operation(SetThpDisable{.value = wanted_.thp_disable});
    }
    if (wanted_.dumpable != living_.dumpable) {
      difference(Family::process, "dumpable", fmt::format("{} -> {}", wanted_.dumpable, living_.dumpable));
      if (wanted_.dumpable != 0 && wanted_.dumpable != 1) {  // prctl(2): a task can set 0 and 1 only
        refuse("dumpable", fmt::format("was {} at the snapshot, which no task can set", wanted_.dumpable));
      }
      operation(SetDumpable{.value = wanted_.dumpable});
    }
  }

  void limits() {
    for (std::size_t i = 0; i < wanted_.limits.size(); ++i) {
      const auto& before = wanted_.limits[i];
      const auto& now = living_.limits[i];
      if (before == now) continue;
      const int resource = static_cast<int>(i);
      difference(Family::process, limit_name(resource),
                 fmt::format("{} -> {} (soft/hard)", limit_text(before), limit_text(now)));
      if (before.hard > now.hard && !living_.powers.raise_hard_limits) {
        refuse(fmt::format("limit {}", limit_name(resource)),
               fmt::format("the hard limit was lowered since the snapshot ({} -> {}), and the task lacks "
                           "CAP_SYS_RESOURCE to raise it",
                           limit_value(before.hard), limit_value(now.hard)),
               "run the program with CAP_SYS_RESOURCE, or let it lower its soft limit only");
      }
      operation(SetLimit{.resource = resource, .living = now, .wanted = before});
    }
  }

  [[nodiscard]] bool target_gone(const model::PosixTimer& timer) const {
    return timer.target.value != 0 && !threads_.empty() && std::ranges::find(threads_, timer.target) == threads_.end();
  }

  static bool same_attributes(const model::PosixTimer& a, const model::PosixTimer& b) {
    return a.clock == b.clock && a.notify == b.notify && a.signal == b.signal && a.value == b.value &&
           a.target == b.target;
  }

  void create_timer(const model::PosixTimer& timer, bool replaces) {
    const auto name = fmt::format("timer {}", timer.id);
    if (timer.clock == kOwnThreadClock) {
      refuse(name,
             "was deleted since the snapshot; it counts the CPU time of the thread that made it, which nobody else can "
             "make again");
    } else if (!living_.powers.choose_timer_ids) {
      refuse(name, "was deleted since the snapshot, and this kernel gives no task a timer id twice",
             "Linux 6.15 can (PR_TIMER_CREATE_RESTORE_IDS)");
    }
    operation(CreatePosixTimer{.timer = timer, .replaces = replaces});
  }

  void posix_timers() {
    std::map<std::int32_t, const model::PosixTimer*> living;
    for (const auto& timer : living_.timers) living.emplace(timer.id, &timer);
    for (const auto& timer : wanted_.timers) {
      const auto name = fmt::format("timer {}", timer.id);
      const auto now = living.find(timer.id);
      if (now == living.end()) {
        difference(Family::timer, name, fmt::format("{} -> deleted", armed_text(timer)), Sign::removed);
        create_timer(timer, false);
        continue;
      }
      const auto& other = *now->second;
      if (!same_attributes(timer, other)) {
        difference(Family::timer, name, "deleted and made anew with another clock, signal or target");
        create_timer(timer, true);
      } else if (target_gone(timer)) {
        difference(Family::timer, name, fmt::format("its target, thread {}, ended", timer.target.value));
        create_timer(timer, true);
      } else {
        if (armed_anew(timer.left_ns, timer.interval_ns, other.left_ns, other.interval_ns, kSecondNs)) {
          difference(Family::timer, name, fmt::format("{} -> {}", armed_text(timer), armed_text(other)));
        }
        if (timer.left_ns != 0 || other.left_ns != 0 || timer.interval_ns != other.interval_ns)
          operation(SetPosixTimer{.timer = timer});
      }
      if (timer.overrun != 0)
        plan_.notes.push_back(
            fmt::format("timer {}: the overrun count of its last signal starts again at 0", timer.id));
      living.erase(now);
    }
    for (const auto& [id, timer] : living) {
      difference(Family::timer, fmt::format("timer {}", id), fmt::format("made since, {}", armed_text(*timer)),
                 Sign::added);
      operation(DeletePosixTimer{.id = id});
    }
  }

  void interval_timers() {
    for (std::size_t i = 0; i < wanted_.interval_timers.size(); ++i) {
      const auto& before = wanted_.interval_timers[i];
      const auto& now = living_.interval_timers[i];
      if (armed_anew(before.left_us, before.interval_us, now.left_us, now.interval_us, kSecondUs)) {
        difference(Family::timer, std::string(interval_timer_name(static_cast<int>(i))),
                   fmt::format("{} -> {}", armed_text(before), armed_text(now)));
      }
      if (before.left_us != 0 || now.left_us != 0 || before.interval_us != now.interval_us) {
        operation(SetIntervalTimer{.which = static_cast<int>(i), .value = before});
      }
    }
  }

  const model::Process& wanted_;
  const model::Process& living_;
  std::span<const model::Tid> threads_;
  bool requeue_;
  ProcessPlan plan_;
};

// Setting a timer that both sides have armed is nothing that a reader of a plan needs to worry about.
std::string timer_text(std::string name, std::int64_t left, const std::string& armed) {
  if (left == 0) return fmt::format("{}: disarm", name);
  return fmt::format("{}: set back to the time that was left ({})", name, armed);
}

}  // namespace

std::string signal_name(int signal) {
  constexpr int kFirstRealTime = 34;  // what glibc leaves to programs of the kernel's 32..64
  if (const char* name = ::sigabbrev_np(signal); name != nullptr) return std::string("SIG") + name;
  if (signal == kFirstRealTime) return "SIGRTMIN";
  if (signal > kFirstRealTime && signal <= 64) return fmt::format("SIGRTMIN+{}", signal - kFirstRealTime);
  return fmt::format("signal {}", signal);
}

std::string limit_name(int resource) {
  switch (resource) {
    case RLIMIT_CPU:
      return "RLIMIT_CPU";
    case RLIMIT_FSIZE:
      return "RLIMIT_FSIZE";
    case RLIMIT_DATA:
      return "RLIMIT_DATA";
    case RLIMIT_STACK:
      return "RLIMIT_STACK";
    case RLIMIT_CORE:
      return "RLIMIT_CORE";
    case RLIMIT_RSS:
      return "RLIMIT_RSS";
    case RLIMIT_NPROC:
      return "RLIMIT_NPROC";
    case RLIMIT_NOFILE:
      return "RLIMIT_NOFILE";
    case RLIMIT_MEMLOCK:
      return "RLIMIT_MEMLOCK";
    case RLIMIT_AS:
      return "RLIMIT_AS";
    case RLIMIT_LOCKS:
      return "RLIMIT_LOCKS";
    case RLIMIT_SIGPENDING:
      return "RLIMIT_SIGPENDING";
    case RLIMIT_MSGQUEUE:
      return "RLIMIT_MSGQUEUE";
    case RLIMIT_NICE:
      return "RLIMIT_NICE";
    case RLIMIT_RTPRIO:
      return "RLIMIT_RTPRIO";
    case RLIMIT_RTTIME:
      return "RLIMIT_RTTIME";
    default:
      return fmt::format("limit {}", resource);
  }
}

ProcessPlan plan_process(const model::Process& wanted, const model::Process& living,
                         std::span<const model::Tid> living_threads, bool requeue) {
  return Planner(wanted, living, living_threads, requeue).plan();
}

std::string text(const ProcessOperation& operation) {
  return std::visit(
      Overloaded{
          [](const SetSignalAction& op) {
            return fmt::format("set action of {}: {}", signal_name(op.signal), action_text(op.action));
          },
          [](const RequeueSignals& op) {
            return fmt::format("take pending signals, queue {} again", op.wanted.size());
          },
          [](const SetIntervalTimer& op) {
            return timer_text(std::string(interval_timer_name(op.which)), op.value.left_us, armed_text(op.value));
          },
          [](const SetPosixTimer& op) {
            return timer_text(fmt::format("timer {}", op.timer.id), op.timer.left_ns, armed_text(op.timer));
          },
          [](const CreatePosixTimer& op) {
            return fmt::format("timer {}: {}, {}", op.timer.id, op.replaces ? "delete and make again" : "make",
                               armed_text(op.timer));
          },
          [](const DeletePosixTimer& op) { return fmt::format("timer {}: delete", op.id); },
          [](const SetLimit& op) { return fmt::format("set {}: {}", limit_name(op.resource), limit_text(op.wanted)); },
          [](const ChangeDirectory& op) { return fmt::format("change directory to {}", op.path); },
          [](const ChangeRoot& op) { return fmt::format("change root to {}", op.path); },
          [](const SetUmask& op) { return fmt::format("set umask: {:04o}", op.value); },
          [](const SetPersonality& op) { return fmt::format("set personality: {:#x}", op.value); },
          [](const SetDumpable& op) { return fmt::format("set dumpable: {}", op.value); },
          [](const SetOomScore& op) { return fmt::format("set oom_score_adj: {}", op.wanted); },
          [](const SetChildSubreaper& op) { return fmt::format("set child subreaper: {}", op.value ? "on" : "off"); },
          [](const SetThpDisable& op) { return fmt::format("set transparent huge pages disabled: {}", op.value); },
      },
      operation);
}

}  // namespace relive::diff
