#include "apply/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <algorithm>
#include <cstddef>

#include "base/fault.h"
#include "base/number.h"
#include "task/procfs.h"

namespace relive::apply {

namespace {

// linux/prctl.h of Linux 6.15: while on, timer_create(2) reads the id wanted from where it writes the id given.
constexpr std::uint64_t kTimerCreateRestoreIds = 77;
constexpr std::uint64_t kOff = 0;
constexpr std::uint64_t kOn = 1;

using parasite::Program;

// struct sigevent of the kernel, as far as timer_create(2) reads it.
struct KernelSigevent {
  std::uint64_t value = 0;
  std::int32_t signal = 0;
  std::int32_t notify = 0;
  std::int32_t thread = 0;
  std::int32_t padding[11]{};
};
static_assert(sizeof(KernelSigevent) == 64);

timeval time_of_us(std::int64_t us) { return {.tv_sec = us / 1'000'000, .tv_usec = us % 1'000'000}; }
timespec time_of_ns(std::int64_t ns) { return {.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000}; }

model::Limit higher(const model::Limit& a, const model::Limit& b) {
  return {.soft = std::max(a.soft, b.soft), .hard = std::max(a.hard, b.hard)};
}

// The last number of "NSpid:": the thread's id in the innermost pid namespace, which is the task's own.
Result<std::int32_t> inner_tid(model::Pid pid, model::Tid tid) {
  const std::string status = RELIVE_TRY(task::read_proc(pid, fmt::format("task/{}/status", tid.value)));
  const auto ids = task::status_field(status, "NSpid");
  const auto word = ids.substr(ids.find_last_of(" \t") + 1);
  return parse_number<std::int32_t>(word).value_or(tid.value);
}

bool is_fault(int signal) {
  return signal == SIGSEGV || signal == SIGBUS || signal == SIGILL || signal == SIGFPE || signal == SIGTRAP;
}

class Executor {
 public:
  explicit Executor(Workshop& workshop) : workshop_(workshop) {}

  Result<void> operator()(const diff::SetSignalAction& op) {
    const auto action = RELIVE_TRY(arena().put_value(op.action));
    if (op.signal == SIGTRAP) {  // relive's own stands there now; the end of the visit puts this one in its place
      const auto saved = arena().control_address() + offsetof(wire::Control, saved_trap_action);
      workshop_.commit.add("action of SIGTRAP", wire::Kind::save_bytes, {saved.value, action.value, sizeof op.action});
      return {};
    }
    commit("action of " + diff::signal_name(op.signal), SYS_rt_sigaction,
           {static_cast<std::uint64_t>(op.signal), action.value, 0, 8});
    return {};
  }

  Result<void> operator()(const diff::RequeueSignals& op) {
    RELIVE_TRY(fault_point("pending signals"));
    RELIVE_TRY(check_queue_room(op.wanted.size()));
    const auto self = static_cast<std::uint64_t>(RELIVE_TRY(visit().syscall("getpid", SYS_getpid, {})));
    workshop_.commit.add("take pending signals", wire::Kind::take_signals, {});
    for (const auto& queued : op.wanted) {
      if (is_fault(queued.number())) {  // these stay open while the parasite runs, and would be delivered to it
        return fail(ErrorKind::refused,
                    fmt::format("{} was pending for the task: a signal that processors raise cannot be queued again",
                                diff::signal_name(queued.number())));
      }
      const auto info = RELIVE_TRY(arena().put_value(queued));
      commit("queue " + diff::signal_name(queued.number()), SYS_rt_sigqueueinfo,
             {self, static_cast<std::uint64_t>(queued.number()), info.value});
    }
    return {};
  }

  Result<void> operator()(const diff::SetIntervalTimer& op) {
    const itimerval value{.it_interval = time_of_us(op.value.interval_us), .it_value = time_of_us(op.value.left_us)};
    const auto there = RELIVE_TRY(arena().put_value(value));
    commit(fmt::format("setitimer {}", op.which), SYS_setitimer,
           {static_cast<std::uint64_t>(op.which), there.value, 0});
    return {};
  }

  Result<void> operator()(const diff::SetPosixTimer& op) { return set_timer(op.timer); }

  Result<void> operator()(const diff::CreatePosixTimer& op) {
    RELIVE_TRY(fault_point(fmt::format("make timer {}", op.timer.id)));
    const auto id = static_cast<std::uint64_t>(op.timer.id);
    KernelSigevent event{.value = op.timer.value, .signal = op.timer.signal, .notify = op.timer.notify};
    if (op.timer.target.value != 0) event.thread = RELIVE_TRY(inner_tid(visit().task().pid(), op.timer.target));
    const auto event_at = RELIVE_TRY(arena().put_value(event));
    const auto id_at = RELIVE_TRY(arena().put_value(op.timer.id));
    const auto append = [&](Program& program) {
      program.syscall("timer ids by choice", SYS_prctl, {kTimerCreateRestoreIds, kOn, 0, 0, 0});
      program.syscall(fmt::format("make timer {}", op.timer.id), SYS_timer_create,
                      {static_cast<std::uint64_t>(op.timer.clock), event_at.value, id_at.value});
      program.syscall("timer ids by turn", SYS_prctl, {kTimerCreateRestoreIds, kOff, 0, 0, 0});
    };
    if (op.replaces) {  // the new one can take its number only when the old one is gone
      commit(fmt::format("delete timer {}", op.timer.id), SYS_timer_delete, {id});
      append(workshop_.commit);
    } else {
      RELIVE_TRY(visit().record_undo(fmt::format("delete timer {}", op.timer.id), SYS_timer_delete, {id}));
      RELIVE_TRY(visit().record_undo("timer ids by turn", SYS_prctl, {kTimerCreateRestoreIds, kOff, 0, 0, 0}));
      Program program;
      append(program);
      RELIVE_TRY(visit().run(program));
    }
    return set_timer(op.timer);
  }

  Result<void> operator()(const diff::DeletePosixTimer& op) {
    commit(fmt::format("delete timer {}", op.id), SYS_timer_delete, {static_cast<std::uint64_t>(op.id)});
    return {};
  }

  Result<void> operator()(const diff::SetLimit& op) {  // what may fail of it was done by raise_limits
    const auto there = RELIVE_TRY(arena().put_value(op.wanted));
    commit(diff::limit_name(op.resource), SYS_prlimit64, {0, static_cast<std::uint64_t>(op.resource), there.value, 0});
    return {};
  }

  Result<void> operator()(const diff::ChangeDirectory& op) {
    const auto fd = RELIVE_TRY(give_directory("working directory", workshop_.holds.cwd, op.path));
    commit("fchdir " + op.path, SYS_fchdir, {fd});
    return {};
  }

  Result<void> operator()(const diff::ChangeRoot& op) {
    const auto fd = RELIVE_TRY(give_directory("root directory", workshop_.holds.root, op.path));
    const auto here = RELIVE_TRY(arena().put(std::as_bytes(std::span(".", 2))));
    commit("fchdir " + op.path, SYS_fchdir, {fd});
    commit("chroot " + op.path, SYS_chroot, {here.value});
    return {};
  }

  Result<void> operator()(const diff::SetUmask& op) {
    commit("umask", SYS_umask, {op.value});
    return {};
  }

  Result<void> operator()(const diff::SetPersonality& op) {
    commit("personality", SYS_personality, {op.value});
    return {};
  }

  Result<void> operator()(const diff::SetDumpable& op) {
    commit("dumpable", SYS_prctl, {PR_SET_DUMPABLE, static_cast<std::uint64_t>(op.value), 0, 0, 0});
    return {};
  }

  // The task writes through a descriptor that we opened: it may stand in a root without /proc.
  Result<void> operator()(const diff::SetOomScore& op) {
    RELIVE_TRY(fault_point("oom_score_adj: give descriptor"));
    const UniqueFd file = RELIVE_TRY(task::open_proc(visit().task().pid(), "oom_score_adj", O_WRONLY));
    const auto fd = RELIVE_TRY(give(file.get(), "oom_score_adj"));
    const auto wanted = fmt::to_string(op.wanted);
    const auto wanted_at = RELIVE_TRY(put_text(wanted));
    if (op.wanted > op.living) {  // everybody may
      commit("oom_score_adj " + wanted, SYS_write, {fd, wanted_at.value, wanted.size()});
      return {};
    }
    RELIVE_TRY(fault_point("oom_score_adj: lower"));
    const auto living = fmt::to_string(op.living);
    const auto living_at = RELIVE_TRY(put_text(living));
    RELIVE_TRY(visit().record_undo("oom_score_adj " + living, SYS_write, {fd, living_at.value, living.size()}));
    auto written = visit().syscall("oom_score_adj " + wanted, SYS_write, {fd, wanted_at.value, wanted.size()});
    if (!written && written.error().kind == ErrorKind::permission) {
      return fail(
          ErrorKind::refused,
          fmt::format("oom_score_adj: was raised since the snapshot ({} -> {}), and the task may not lower it so far",
                      op.wanted, op.living),
          "this needs CAP_SYS_RESOURCE");
    }
    RELIVE_TRY(std::move(written));
    return {};
  }

  Result<void> operator()(const diff::SetChildSubreaper& op) {
    commit("child subreaper", SYS_prctl, {PR_SET_CHILD_SUBREAPER, op.value ? kOn : kOff, 0, 0, 0});
    return {};
  }

  Result<void> operator()(const diff::SetThpDisable& op) {
    commit("transparent huge pages", SYS_prctl,
           {PR_SET_THP_DISABLE, op.value & 1U, op.value & ~std::uint64_t{1}, 0, 0});
    return {};
  }

 private:
  [[nodiscard]] parasite::Visit& visit() { return workshop_.visit; }
  [[nodiscard]] parasite::Arena& arena() { return workshop_.visit.arena(); }

  void commit(std::string what, long number, std::initializer_list<std::uint64_t> arguments) {
    workshop_.commit.syscall(std::move(what), number, arguments);
  }

  Result<model::TaskAddress> put_text(const std::string& text) { return arena().put(std::as_bytes(std::span(text))); }

  // At a spare number, closed behind the commit program or by undo.
  Result<std::uint64_t> give(int fd, const std::string& what) {
    const auto spare = RELIVE_TRY(visit().spare_descriptor());
    const auto number = static_cast<std::uint64_t>(spare.value);
    RELIVE_TRY(visit().record_undo("close spare of " + what, SYS_close, {number}));
    RELIVE_TRY(visit().give(fd, spare));
    workshop_.cleanup.syscall("close spare of " + what, SYS_close, {number});
    return number;
  }

  // fchdir(2) asks for the right to search the directory. So does a look at "." from there, which changes nothing.
  Result<std::uint64_t> give_directory(const std::string& what, const UniqueFd& held, const std::string& path) {
    RELIVE_TRY(fault_point(what));
    if (!held)
      return fail(ErrorKind::refused, fmt::format("{} {}: the snapshot holds no descriptor of it", what, path));
    const auto fd = RELIVE_TRY(give(held.get(), what));
    const auto here = RELIVE_TRY(arena().put(std::as_bytes(std::span(".", 2))));
    const auto status = RELIVE_TRY(arena().take(sizeof(struct stat)));
    auto looked = visit().syscall("search " + path, SYS_newfstatat, {fd, here.value, status.there.value, 0});
    if (!looked && looked.error().kind == ErrorKind::permission) {
      return fail(ErrorKind::refused, fmt::format("{} {}: the task may not search it any more", what, path));
    }
    RELIVE_TRY(std::move(looked));
    return fd;
  }

  // "SigQ: 3/96365": the user's queued signals and the task's limit on them.
  Result<void> check_queue_room(std::size_t wanted) {
    if (wanted == 0) return {};
    const std::string status = RELIVE_TRY(task::read_proc(visit().task().pid(), "status"));
    const auto field = task::status_field(status, "SigQ");
    const auto slash = std::min(field.find('/'), field.size());
    const auto queued = parse_number<std::uint64_t>(field.substr(0, slash)).value_or(0);
    const auto limit = parse_number<std::uint64_t>(field.substr(std::min(slash + 1, field.size()))).value_or(0);
    if (queued + wanted > limit) {
      return fail(ErrorKind::refused,
                  fmt::format("pending signals: {} would have to be queued, {} of {} are (RLIMIT_SIGPENDING)", wanted,
                              queued, limit));
    }
    return {};
  }

  Result<void> set_timer(const model::PosixTimer& timer) {
    // A SIGEV_NONE timer shows its old end even after it was disarmed (common_timer_get() of Linux): one that ended
    // just now shows nothing.
    const std::int64_t left_ns = timer.left_ns == 0 && timer.notify == SIGEV_NONE ? 1 : timer.left_ns;
    const itimerspec value{.it_interval = time_of_ns(timer.interval_ns), .it_value = time_of_ns(left_ns)};
    const auto there = RELIVE_TRY(arena().put_value(value));
    commit(fmt::format("set timer {}", timer.id), SYS_timer_settime,
           {static_cast<std::uint64_t>(timer.id), 0, there.value, 0});
    return {};
  }

  Workshop& workshop_;
};

}  // namespace

Result<void> raise_limits(Workshop& workshop, const diff::ProcessPlan& plan) {
  for (const auto& operation : plan.operations) {
    const auto* limit = std::get_if<diff::SetLimit>(&operation);
    if (limit == nullptr) continue;
    const auto raised = higher(limit->living, limit->wanted);
    if (raised == limit->living) continue;
    const auto name = diff::limit_name(limit->resource);
    const auto resource = static_cast<std::uint64_t>(limit->resource);
    RELIVE_TRY(fault_point("raise " + name));
    auto& visit = workshop.visit;
    const auto living_at = RELIVE_TRY(visit.arena().put_value(limit->living));
    const auto raised_at = RELIVE_TRY(visit.arena().put_value(raised));
    RELIVE_TRY(visit.record_undo("lower " + name, SYS_prlimit64, {0, resource, living_at.value, 0}));
    auto done = visit.syscall("raise " + name, SYS_prlimit64, {0, resource, raised_at.value, 0});
    if (!done && done.error().kind == ErrorKind::permission) {
      return fail(ErrorKind::refused,
                  fmt::format("limit {}: the task may not raise it back from {} to {} (hard limit)", name,
                              limit->living.hard, limit->wanted.hard),
                  "this needs CAP_SYS_RESOURCE");
    }
    RELIVE_TRY(std::move(done));
  }
  return {};
}

Result<void> prepare_process(Workshop& workshop, const diff::ProcessPlan& plan, const model::Process&) {
  Executor executor(workshop);
  for (const auto& operation : plan.operations) {
    RELIVE_TRY(with_context(std::visit(executor, operation), diff::text(operation)));
  }
  return {};
}

bool takes_driver_signals(const diff::ProcessPlan& plan) {
  return std::ranges::any_of(
      plan.operations, [](const auto& operation) { return std::holds_alternative<diff::RequeueSignals>(operation); });
}

}  // namespace relive::apply
