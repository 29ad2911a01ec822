// A visit: threads and tasks that are made in the task, and how they end again.
#include <fcntl.h>
#include <linux/sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/fault.h"
#include "parasite/visit_state.h"
#include "task/procfs.h"

namespace relive::parasite {

using model::Pid;
using model::RemoteFd;
using model::TaskAddress;
using model::Tid;

namespace {

constexpr int kIdTries = 200;  // to have an id again through ns_last_pid, while others fork as well

// Ids are chosen as relive sees them.
Result<void> check_pid_namespace(const task::FrozenTask& task, const std::string& what) {
  if (RELIVE_TRY(task::read_proc_link(task.pid(), "ns/pid")) ==
      RELIVE_TRY(task::read_proc_link(model::Pid{::getpid()}, "ns/pid")))
    return {};
  return fail(ErrorKind::unsupported, fmt::format("{} would have to be made in another pid namespace", what),
              "run relive inside the task's pid namespace");
}

// The next id that the kernel gives shall be this one, if nobody else is faster.
Result<void> announce_id(pid_t id, const std::string& what) {
  const UniqueFd last(::open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC));
  const std::string text = std::to_string(id - 1);
  if (last && ::write(last.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) return {};
  return fail(
      ErrorKind::refused, fmt::format("{} has ended and its id may not be chosen again", what),
      "needs CAP_CHECKPOINT_RESTORE in the task (setcap, or run it as root), or the right to write ns_last_pid");
}

}  // namespace

Result<void> Visit::create_thread(Tid tid, std::uint64_t fs_base, TaskAddress clear_child_tid) {
  RELIVE_TRY(check_pid_namespace(*task_, fmt::format("thread {}", tid.value)));
  const auto block = RELIVE_TRY(make_room(arena(), tid, kThreadStack, TaskAddress{0}));
  clone_args arguments{};
  arguments.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS;
  if (clear_child_tid.value != 0) arguments.flags |= CLONE_CHILD_CLEARTID;
  arguments.child_tid = clear_child_tid.value;
  arguments.stack = block.stack_top - kThreadStack;
  arguments.stack_size = kThreadStack;
  arguments.tls = fs_base;
  arguments.set_tid = RELIVE_TRY(arena().put_value(tid.value)).value;
  arguments.set_tid_size = 1;
  const std::uint64_t patience_ns = now_ns() + 5'000'000'000;
  for (int attempt = 0; attempt < kIdTries; ++attempt) {
    const TaskAddress arguments_address = RELIVE_TRY(arena().put_value(arguments));
    Program program;
    program.add(fmt::format("make thread {}", tid.value), wire::Kind::create_thread,
                {block.piece.there.value, arguments_address.value, arena().control_address().value},
                Program::OnError::go_on);
    RELIVE_TRY(run(program));
    const std::int64_t result = program.result(0);
    if (result == tid.value) {
      state_->blocks.emplace(tid, block);
      return {};
    }
    if (result > 0) {  // another id: somebody was faster than ns_last_pid
      const Tid other{static_cast<pid_t>(result)};
      if (::ptrace(PTRACE_CONT, other.value, nullptr, nullptr) == 0) RELIVE_TRY(task_->wait_gone(other));
      block.value().gone = 0;
    } else if (result == -EEXIST) {
      // A thread of the task that is still on its way out has woken whoever joins it, and keeps its id a little longer:
      // until it gets a CPU again, which may take a SCHED_IDLE thread a while.
      const auto holder = task::read_proc(model::Pid{tid.value}, "status");
      const bool own = !holder || task::status_field(*holder, "Tgid") == std::to_string(task_->pid().value);
      if (own && now_ns() < patience_ns) {
        const timespec pause{.tv_sec = 0, .tv_nsec = 50'000};
        ::nanosleep(&pause, nullptr);
        --attempt;
        continue;
      }
      return fail(ErrorKind::refused, fmt::format("thread id {} is taken by another task now", tid.value),
                  "end that task, or take a new snapshot");
    } else if (result != -EPERM || arguments.set_tid_size == 0) {
      return fail_errno(fmt::format("clone3 for thread {}", tid.value),
                        fmt::format("inside task {}", task_->pid().value), static_cast<int>(-result));
    }
    // Without CAP_CHECKPOINT_RESTORE in the task: say which id was the last, then make any.
    arguments.set_tid_size = 0;
    arguments.set_tid = 0;
    RELIVE_TRY(announce_id(tid.value, fmt::format("thread {}", tid.value)));
  }
  return fail(ErrorKind::refused, fmt::format("thread id {} could not be had again in {} tries", tid.value, kIdTries),
              "try again on a quieter machine");
}

// From its last line to its first when it is undone: the child is killed and waited for, the signal of its end taken
// away, the handle closed. Where there is no child yet the calls answer with an error, and nothing happens.
Result<void> Visit::record_end_of(RemoteFd handle, const Fork& fork) {
  const auto number = static_cast<std::uint64_t>(handle.value);
  RELIVE_TRY(record_undo("close the handle", SYS_close, {number}));
  if (fork.exit_signal != 0 && !fork.child_signal_pending) {
    const std::uint64_t only = bit_of(fork.exit_signal);
    constexpr timespec kNow{};
    RELIVE_TRY(record_undo(
        "take the signal of the child's end", SYS_rt_sigtimedwait,
        {RELIVE_TRY(arena().put_value(only)).value, 0, RELIVE_TRY(arena().put_value(kNow)).value, sizeof only}));
  }
  if (fork.takes_place_of_zombie)  // it ends by itself, and stays one
    return record_undo(fmt::format("wait until task {} has ended", fork.pid.value), SYS_waitid,
                       {P_PID, static_cast<std::uint64_t>(fork.pid.value), 0, WEXITED | WNOWAIT | __WALL, 0});
  RELIVE_TRY(record_undo(fmt::format("wait for task {}", fork.pid.value), SYS_wait4,
                         {static_cast<std::uint64_t>(fork.pid.value), 0, __WALL, 0}));
  return record_undo(fmt::format("kill task {}", fork.pid.value), SYS_pidfd_send_signal, {number, SIGKILL, 0, 0});
}

// The id of the child, or -errno. One program, which ends whatever becomes of the keeper: the child's handle is moved
// to where the undo log looks for it.
Result<std::int64_t> Visit::make_child(const Fork& fork, bool choose, RemoteFd handle) {
  const auto lowest = RELIVE_TRY(next_descriptors(1));
  const auto low = static_cast<std::uint64_t>(lowest[0].value);
  clone_args arguments{};
  arguments.flags = fork.flags | CLONE_PIDFD;
  arguments.exit_signal = static_cast<std::uint64_t>(fork.exit_signal);
  arguments.pidfd = RELIVE_TRY(arena().take(sizeof(int))).there.value;
  if (choose) {
    arguments.set_tid = RELIVE_TRY(arena().put_value(fork.pid.value)).value;
    arguments.set_tid_size = 1;
  }
  Program program;
  if (fork.takes_place_of_zombie)
    program.syscall(fmt::format("wait for task {}", fork.pid.value), SYS_wait4,
                    {static_cast<std::uint64_t>(fork.pid.value), 0, __WALL, 0}, Program::OnError::go_on);
  const std::size_t forked = program.size();
  program.syscall(fmt::format("fork task {}", fork.pid.value), SYS_clone3,
                  {RELIVE_TRY(arena().put_value(arguments)).value, sizeof arguments}, Program::OnError::go_on);
  if (lowest[0] != handle) {  // else it lies where it is to be
    program.syscall("move the child's handle", SYS_dup3, {low, static_cast<std::uint64_t>(handle.value), O_CLOEXEC},
                    Program::OnError::go_on);
    program.syscall("close the child's first handle", SYS_close, {low}, Program::OnError::go_on);
  }
  RELIVE_TRY(task_->see_forks(driver_, true));
  state_->forking = true;
  const auto ran = run(program);
  state_->forking = false;
  RELIVE_TRY(task_->see_forks(driver_, false));
  RELIVE_TRY(Result<void>(ran));
  return program.result(forked);
}

Result<task::FrozenTask> Visit::fork_task(const Fork& fork) {
  const std::string what = fmt::format("task {}", fork.pid.value);
  RELIVE_TRY(check_pid_namespace(*task_, what));
  RELIVE_TRY(fault_point("fork a task"));
  const RemoteFd handle = RELIVE_TRY(spare_descriptor());
  RELIVE_TRY(record_end_of(handle, fork));
  bool choose = true;
  const std::uint64_t patience_ns = now_ns() + 5'000'000'000;
  for (int attempt = 0; attempt < kIdTries; ++attempt) {
    const std::int64_t made = RELIVE_TRY(make_child(fork, choose, handle));
    if (made > 0) {
      auto child = RELIVE_TRY(task::FrozenTask::born(model::Pid{static_cast<pid_t>(made)}));
      if (made == fork.pid.value) {
        state_->handles.push_back(handle);
        note_own(handle);
        return child;
      }
      note_open(handle);
      child.end();  // another id: somebody was faster than ns_last_pid
      Program reap;
      reap.syscall("wait for a child that is not wanted", SYS_wait4, {static_cast<std::uint64_t>(made), 0, __WALL, 0},
                   Program::OnError::go_on);
      RELIVE_TRY(run(reap));
    } else if (made == -EEXIST) {
      return fail(ErrorKind::refused, fmt::format("the id of {} is taken by another task now", what),
                  "end that task, or take a new snapshot");
    } else if (made != -EPERM || !choose) {
      return fail_errno("clone3 for " + what, fmt::format("inside task {}", task_->pid().value),
                        static_cast<int>(-made));
    }
    choose = false;
    // What was announced, whoever forks next gets; it may be a short life.
    while (attempt != 0 && ::kill(fork.pid.value, 0) == 0 && now_ns() < patience_ns) {
      const timespec pause{.tv_sec = 0, .tv_nsec = 1'000'000};
      ::nanosleep(&pause, nullptr);
    }
    RELIVE_TRY(announce_id(fork.pid.value, what));
  }
  return fail(ErrorKind::refused, fmt::format("the id of {} could not be had again in {} tries", what, kIdTries),
              "try again on a quieter machine");
}

Result<void> Visit::end_child(Pid pid, int child_handle, Program& program) {
  const RemoteFd handle = RELIVE_TRY(spare_descriptor());
  const auto number = static_cast<std::uint64_t>(handle.value);
  RELIVE_TRY(record_undo("close a child's handle", SYS_close, {number}));
  RELIVE_TRY(give(child_handle, handle));
  state_->handles.push_back(handle);
  note_own(handle);
  program.syscall(fmt::format("kill task {}", pid.value), SYS_pidfd_send_signal, {number, SIGKILL, 0, 0},
                  Program::OnError::go_on);
  program.syscall(fmt::format("wait for task {}", pid.value), SYS_wait4,
                  {static_cast<std::uint64_t>(pid.value), 0, __WALL, 0}, Program::OnError::go_on);
  return {};
}

Result<void> Visit::add_end(int status, Program& program) {
  if (WIFEXITED(status)) {
    program.syscall("end", SYS_exit_group, {static_cast<std::uint64_t>(WEXITSTATUS(status))});
    return {};
  }
  const int signal = WTERMSIG(status);
  if (signal != SIGKILL) {
    constexpr std::uint64_t kDefaultAction[4] = {};
    const std::uint64_t others = ~bit_of(signal);  // one of them may be pending, and end it otherwise
    program.syscall("default action", SYS_rt_sigaction,
                    {static_cast<std::uint64_t>(signal),
                     RELIVE_TRY(arena().put(std::as_bytes(std::span(kDefaultAction)))).value, 0, 8});
    program.syscall("the signal is not blocked", SYS_rt_sigprocmask,
                    {SIG_SETMASK, RELIVE_TRY(arena().put_value(others)).value, 0, sizeof others});
  }
  program.syscall(fmt::format("end by signal {}", signal), SYS_kill,
                  {static_cast<std::uint64_t>(task_->pid().value), static_cast<std::uint64_t>(signal)});
  return {};
}

Result<void> Visit::begin_from_nothing(std::optional<int> status) {
  state_->blocks.at(driver_).value().original_frame = 0;
  if (!status) return {};
  Program end;
  RELIVE_TRY(add_end(*status, end));
  for (std::size_t i = end.size(); i > 0; --i) {  // an undo log is carried out backwards
    const auto& arg = end.operations()[i - 1].arg;
    RELIVE_TRY(record_undo(end.what(i - 1), static_cast<long>(end.operations()[i - 1].number),
                           {arg[0], arg[1], arg[2], arg[3]}));
  }
  return {};
}

}  // namespace relive::parasite
