// A task whose every thread is stopped under our ptrace.
#pragma once

#include <sys/user.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "model/ids.h"

namespace relive::task {

struct FrozenThread {
  model::Tid tid;
  // As the kernel stopped it, but for two things: a call that our interrupt broke off with EINTR (epoll_wait, semop,
  // sigtimedwait, sockets with a time-out: signal(7)) is issued again, as a program must not see an error it could not
  // have seen; and a thread inside an rseq critical section stands at its abort handler. Never altered while frozen.
  user_regs_struct registers{};
  std::uint64_t signal_mask = 0;
  bool job_stopped = false;  // the task was stopped by SIGSTOP, SIGTSTP ... before; it stays so
  bool born_here = false;    // made by relive while frozen: it ends if the task is let go before commit
};

// Seizes and interrupts every thread until no new one appears. The destructor lets the task go on as it was.
// REQUIRES: every method is called from the OS thread that called freeze() (ptrace is bound to it).
class FrozenTask {
 public:
  // Errors, each of which leaves the task running as before: not_found (no such pid), refused (a kernel thread, a
  // zombie, ourselves, a thread that does not stop within `patience_ms`: vfork or uninterruptible sleep), busy (under a
  // debugger: named), permission.
  static Result<FrozenTask> freeze(model::Pid pid, int patience_ms = 2000);

  FrozenTask(FrozenTask&&) noexcept;
  FrozenTask& operator=(FrozenTask&&) = delete;
  ~FrozenTask();

  [[nodiscard]] model::Pid pid() const { return pid_; }
  [[nodiscard]] int pidfd() const { return pidfd_.get(); }
  [[nodiscard]] std::uint64_t start_time() const { return start_time_; }
  // Leader first (if it lives), then ascending.
  [[nodiscard]] std::span<FrozenThread> threads() { return threads_; }
  [[nodiscard]] FrozenThread* find(model::Tid tid);

  // A duplicate, in this process, of descriptor `fd` of the task (pidfd_getfd(2), Linux 5.6).
  Result<UniqueFd> borrow(model::RemoteFd fd) const;

  // Texts of /proc, as they were when the task had just been stopped: /proc/PID/stat, and a thread's
  // /proc/PID/task/TID/status. Read when first asked for; of a blank task each time.
  Result<std::string> stat() const;
  Result<std::string> status(model::Tid tid) const;

  // Memory of the task. Short reads and writes are errors. write() reaches read-only mappings too (/proc/PID/mem).
  Result<void> read(model::TaskAddress from, std::span<std::byte> into) const;
  Result<void> write(model::TaskAddress to, std::span<const std::byte> bytes) const;

  // Lets a thread run and waits for its next stop. Returns the stop's wait status. task_died if the task ended. A
  // SIGSTOP that comes meanwhile does not count: it stays pending, and stops the task when that goes on.
  Result<int> run_until_stop(model::Tid tid, int request /* PTRACE_CONT or PTRACE_SYSCALL */);
  Result<user_regs_struct> registers(model::Tid tid) const;
  Result<void> set_registers(model::Tid tid, const user_regs_struct& registers) const;
  Result<std::vector<std::byte>> xstate(model::Tid tid) const;
  Result<void> set_xstate(model::Tid tid, std::span<const std::byte> xstate) const;
  Result<void> set_signal_mask(model::Tid tid, std::uint64_t mask) const;

  // A thread that the task has just created appeared under our hand (PTRACE_O_TRACECLONE): waits for its first stop and
  // adds it to threads() as born_here.
  Result<void> adopt(model::Tid tid);
  // Waits until `tid`, which was told to end, is gone, and drops it from threads().
  Result<void> wait_gone(model::Tid tid);

  // A task that this one has just forked, with the options of forks_seen() in force: stopped before its first
  // instruction. It runs nothing, and dies with us (PTRACE_O_EXITKILL) until let_live().
  static Result<FrozenTask> born(model::Pid pid);
  // The same of relive itself: a child of ours, which runs nothing but a read(2) before it is stopped. Errors:
  // refused, where a task has this id, or relive may not choose one (CAP_CHECKPOINT_RESTORE, Linux 5.9).
  static Result<FrozenTask> fork_here(model::Pid pid);
  [[nodiscard]] bool blank() const { return blank_; }
  // A blank task has called execve(2) under our hand: its memory and its registers are others now.
  Result<void> renew();
  Result<void> let_live();
  // Kills the task and waits until nothing of it is left but what its parent has to reap.
  void end();
  // Are the forks of `thread` to be reported, and the children to be ours?
  Result<void> see_forks(model::Tid tid, bool see) const;

  // Detaches every thread. A task in group stop stays stopped.
  void resume();
  [[nodiscard]] bool frozen() const { return frozen_; }
  // Nanoseconds (CLOCK_MONOTONIC) when the first thread was stopped.
  [[nodiscard]] std::uint64_t frozen_since_ns() const { return frozen_since_ns_; }

 private:
  FrozenTask() = default;
  // Of a blank task that stands: all that is known of it.
  Result<void> get_to_know();
  Result<int> memory() const;

  model::Pid pid_;
  UniqueFd pidfd_;
  mutable UniqueFd memory_;  // /proc/PID/mem, once it was needed
  mutable std::string stat_;
  mutable std::map<model::Tid, std::string> statuses_;
  std::uint64_t start_time_ = 0;
  std::vector<FrozenThread> threads_;
  std::uint64_t frozen_since_ns_ = 0;
  bool whole_ = false;  // every thread is known
  bool blank_ = false;
  bool lives_on_ = false;  // a blank one, behind let_live()
  bool frozen_ = false;
};

// A thread that does not stop in time (a vfork parent, an uninterruptible sleep) stays seized when freeze() gives up:
// the kernel lets go of it only where it stops; a thread that it makes on its way there is seized, too. Detaches those
// that have stopped by now; returns of how many tasks some are still to come. A keeper calls it from its loop until it
// answers 0. REQUIRES: the OS thread that called freeze().
std::size_t release_lingering();

}  // namespace relive::task
