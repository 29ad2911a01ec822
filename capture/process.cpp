#include "capture/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <linux/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/number.h"
#include "capture/pending.h"
#include "capture/process_text.h"
#include "task/procfs.h"
#include "task/signal_set.h"

namespace relive::capture {

namespace {

// linux/prctl.h of Linux 6.15; answers whether timer_create(2) takes ids from its caller.
constexpr std::uint64_t kTimerCreateRestoreIds = 77;
constexpr std::uint64_t kTimerCreateRestoreIdsGet = 2;
constexpr std::uint64_t kAskPersonality = 0xffffffff;

using parasite::Program;
using OnError = Program::OnError;

// What the parasite's system calls write.
struct Answers {
  model::SignalActions actions;
  std::array<itimerval, 3> interval_timers;
  std::array<model::Limit, RLIM_NLIMITS> limits;  // struct rlimit64
  std::int32_t child_subreaper;
};
static_assert(sizeof(model::SignalAction) == 32 && sizeof(model::Limit) == sizeof(rlimit64));

// Indices of the results that come back as return values.
struct Questions {
  std::size_t dumpable, personality, thp_disable, parent, group, session, choose_timer_ids, first_timer;
};

Questions ask(Program& program, model::TaskAddress answers, model::TaskAddress times,
              const std::vector<model::PosixTimer>& timers) {
  const auto at = [&](std::size_t offset) { return answers.value + offset; };
  for (std::size_t i = 0; i < model::kSignalCount; ++i) {
    program.syscall("rt_sigaction", SYS_rt_sigaction,
                    {i + 1, 0, at(offsetof(Answers, actions) + i * sizeof(model::SignalAction)), 8});
  }
  for (std::size_t i = 0; i < 3; ++i) {
    program.syscall("getitimer", SYS_getitimer, {i, at(offsetof(Answers, interval_timers) + i * sizeof(itimerval))});
  }
  for (std::size_t i = 0; i < RLIM_NLIMITS; ++i) {
    program.syscall("prlimit64", SYS_prlimit64, {0, i, 0, at(offsetof(Answers, limits) + i * sizeof(model::Limit))});
  }
  program.syscall("prctl", SYS_prctl, {PR_GET_CHILD_SUBREAPER, at(offsetof(Answers, child_subreaper))});
  Questions questions{};
  // Looks at no child and takes none: answers only whether there is one, of whatever thread (waitid(2)).
  questions.dumpable = program.syscall("prctl", SYS_prctl, {PR_GET_DUMPABLE});
  questions.personality = program.syscall("personality", SYS_personality, {kAskPersonality});
  questions.thp_disable = program.syscall("prctl", SYS_prctl, {PR_GET_THP_DISABLE, 0, 0, 0, 0}, OnError::go_on);
  questions.parent = program.syscall("getppid", SYS_getppid, {});
  questions.group = program.syscall("getpgid", SYS_getpgid, {0});
  questions.session = program.syscall("getsid", SYS_getsid, {0});
  questions.choose_timer_ids =
      program.syscall("prctl", SYS_prctl, {kTimerCreateRestoreIds, kTimerCreateRestoreIdsGet, 0, 0, 0}, OnError::go_on);
  questions.first_timer = program.size();
  for (std::size_t i = 0; i < timers.size(); ++i) {
    const auto id = static_cast<std::uint64_t>(timers[i].id);
    program.syscall("timer_gettime", SYS_timer_gettime, {id, times.value + i * sizeof(itimerspec)});
    program.syscall("timer_getoverrun", SYS_timer_getoverrun, {id});
  }
  return questions;
}

std::int64_t microseconds(const timeval& time) { return time.tv_sec * 1'000'000 + time.tv_usec; }
std::int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

// A file below the driver thread's directory: those of the leader are empty once the leader has exited.
std::string of_driver(const parasite::Visit& visit, std::string_view name) {
  return fmt::format("task/{}/{}", visit.driver().value, name);
}

struct Place {
  std::string path;
  struct stat status{};
};

Result<Place> read_place(parasite::Visit& visit, std::string_view name) {
  const auto pid = visit.task().pid();
  const auto link = of_driver(visit, name);
  Place place{.path = RELIVE_TRY(task::read_proc_link(pid, link))};
  const UniqueFd fd = RELIVE_TRY(task::open_proc(pid, link, O_PATH));
  if (::fstat(fd.get(), &place.status) != 0) return fail_errno("fstat", place.path);
  return place;
}

model::Directory directory(Place place) {
  return {.path = std::move(place.path), .device = place.status.st_dev, .inode = place.status.st_ino};
}

// One of each is what the model holds. Where the kernel lacks kcmp(2) nothing can be told, and nothing is.
Result<void> check_shared(parasite::Visit& visit) {
  const auto driver = visit.driver();
  for (const auto& thread : visit.task().threads()) {
    if (thread.tid == driver) continue;
    for (const auto& [kind, what] :
         {std::pair{KCMP_FS, "directories and umask"}, std::pair{KCMP_FILES, "a descriptor table"}}) {
      if (::syscall(SYS_kcmp, driver.value, thread.tid.value, kind, 0, 0) > 0) {
        return fail(ErrorKind::refused, fmt::format("thread {} has {} of its own (unshare)", thread.tid.value, what));
      }
    }
  }
  return {};
}

Result<std::uint64_t> status_number(std::string_view status, std::string_view name, int base) {
  const auto number = parse_number<std::uint64_t>(task::status_field(status, name), base);
  if (!number) return fail(ErrorKind::system, fmt::format("/proc/PID/status: cannot read line \"{}:\"", name));
  return *number;
}

Result<std::array<std::uint64_t, model::kNamespaces.size()>> read_namespaces(parasite::Visit& visit) {
  std::array<std::uint64_t, model::kNamespaces.size()> out{};
  const UniqueFd directory =
      RELIVE_TRY(task::open_proc(visit.task().pid(), of_driver(visit, "ns"), O_PATH | O_DIRECTORY));
  for (std::size_t i = 0; i < out.size(); ++i) {
    struct stat status{};
    if (::fstatat(directory.get(), model::kNamespaces[i], &status, 0) == 0) {
      out[i] = status.st_ino;
    } else if (errno != ENOENT) {
      return fail_errno("fstatat", fmt::format("namespace {}", model::kNamespaces[i]));
    }
  }
  return out;
}

}  // namespace

Result<model::Process> read_process(parasite::Visit& visit) {
  const auto pid = visit.task().pid();
  RELIVE_TRY(check_shared(visit));
  const std::string status = RELIVE_TRY(visit.task().status(visit.driver()));
  model::Process process;
  process.timers = RELIVE_TRY(parse_timers(RELIVE_TRY(task::read_proc(pid, "timers"))));

  auto& arena = visit.arena();
  const auto answers_at = RELIVE_TRY(arena.take(sizeof(Answers)));
  const auto times_at = RELIVE_TRY(arena.take(std::max<std::size_t>(1, process.timers.size()) * sizeof(itimerspec)));
  Program program;
  const auto questions = ask(program, answers_at.there, times_at.there, process.timers);
  RELIVE_TRY(with_context(visit.run(program), "asking the task about itself"));

  Answers answers{};
  std::memcpy(&answers, answers_at.here, sizeof answers);
  process.actions = answers.actions;
  auto& trap = process.actions[SIGTRAP - 1];  // relive's own stands in its place while the parasite runs
  std::memcpy(&trap, arena.control().saved_trap_action, sizeof trap);
  for (std::size_t i = 0; i < 3; ++i) {
    const auto& timer = answers.interval_timers[i];
    // ITIMER_REAL that has run out is started again only when its SIGALRM is taken (it_real_fn() of Linux); until then
    // it says that nothing is left, as a disarmed one does.
    const bool between = i == ITIMER_REAL && microseconds(timer.it_value) == 0;
    process.interval_timers[i] = {.left_us = microseconds(between ? timer.it_interval : timer.it_value),
                                  .interval_us = microseconds(timer.it_interval)};
  }
  process.limits = answers.limits;
  process.child_subreaper = answers.child_subreaper != 0;
  process.dumpable = static_cast<std::int32_t>(program.result(questions.dumpable));
  process.personality = static_cast<std::uint64_t>(program.result(questions.personality));
  process.thp_disable = static_cast<std::uint32_t>(std::max<std::int64_t>(0, program.result(questions.thp_disable)));
  process.parent = static_cast<std::int32_t>(program.result(questions.parent));
  process.group = static_cast<std::int32_t>(program.result(questions.group));
  process.session = static_cast<std::int32_t>(program.result(questions.session));
  for (std::size_t i = 0; i < process.timers.size(); ++i) {
    itimerspec time{};
    std::memcpy(&time, times_at.here + i * sizeof time, sizeof time);
    process.timers[i].left_ns = nanoseconds(time.it_value);
    process.timers[i].interval_ns = nanoseconds(time.it_interval);
    process.timers[i].overrun = static_cast<std::int32_t>(program.result(questions.first_timer + 2 * i + 1));
  }

  process.umask = static_cast<std::uint32_t>(RELIVE_TRY(status_number(status, "Umask", 8)));
  const auto capabilities = RELIVE_TRY(status_number(status, "CapEff", 16));
  process.powers = {.raise_hard_limits = (capabilities >> CAP_SYS_RESOURCE & 1U) != 0,
                    .change_root = (capabilities >> CAP_SYS_CHROOT & 1U) != 0,
                    .choose_timer_ids = program.result(questions.choose_timer_ids) >= 0};
  process.pending = RELIVE_TRY(read_pending(visit.driver(), QueueOf::task, task::signal_set(status, "ShdPnd")));

  const std::string stat = RELIVE_TRY(visit.task().stat());
  const auto terminal = parse_number<std::int32_t>(RELIVE_TRY(task::stat_field(stat, 7)));
  if (!terminal) return fail(ErrorKind::system, "/proc/PID/stat: cannot read the controlling terminal");
  process.controlling_terminal = *terminal;

  process.oom_score_adj = RELIVE_TRY(read_oom_adjustment(pid));

  process.cwd = directory(RELIVE_TRY(read_place(visit, "cwd")));
  process.root = directory(RELIVE_TRY(read_place(visit, "root")));
  auto executable = RELIVE_TRY(read_place(visit, "exe"));
  process.executable = std::move(executable.path);
  process.executable_device = executable.status.st_dev;
  process.executable_inode = executable.status.st_ino;
  process.namespaces = RELIVE_TRY(read_namespaces(visit));
  return process;
}

Result<std::int32_t> read_oom_adjustment(model::Pid pid) {
  auto text = RELIVE_TRY(task::read_proc(pid, "oom_score_adj"));
  while (text.ends_with('\n')) text.pop_back();
  const auto number = parse_number<std::int32_t>(text);
  if (!number) return fail(ErrorKind::system, "/proc/PID/oom_score_adj: cannot read \"" + text + "\"");
  return *number;
}

Result<void> hold_directories(parasite::Visit& visit, Holds& holds) {
  const auto pid = visit.task().pid();
  holds.cwd = RELIVE_TRY(task::open_proc(pid, of_driver(visit, "cwd"), O_PATH | O_DIRECTORY));
  holds.root = RELIVE_TRY(task::open_proc(pid, of_driver(visit, "root"), O_PATH | O_DIRECTORY));
  return {};
}

}  // namespace relive::capture
