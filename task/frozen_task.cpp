#include "task/frozen_task.h"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <utility>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/number.h"
#include "task/procfs.h"
#include "task/signal_set.h"
#include "task/stat_text.h"

namespace relive::task {

namespace {

using model::Pid;
using model::Tid;

constexpr int kEventStop = PTRACE_EVENT_STOP;
constexpr std::size_t kMostXstate = 16384;  // AMX makes it 11 KiB

long trace(long request, Tid tid, void* address, void* data) {
  return ::ptrace(static_cast<__ptrace_request>(request), tid.value, address, data);
}

std::string name_of(Tid tid) { return fmt::format("thread {}", tid.value); }

Result<pid_t> status_number(std::string_view status, std::string_view name) {
  const std::string_view text = status_field(status, name);
  const auto number = parse_number<pid_t>(text);
  if (!number) return fail(ErrorKind::system, fmt::format("{}: '{}' is not a number", name, text));
  return *number;
}

// Ids of the threads that /proc/PID/task lists, ascending.
Result<std::vector<Tid>> list_threads(Pid pid) {
  const std::string path = fmt::format("/proc/{}/task", pid.value);
  DIR* directory = ::opendir(path.c_str());
  if (directory == nullptr) return fail_errno("opendir", path, errno == ENOENT ? ESRCH : errno);
  std::vector<Tid> tids;
  while (const dirent* entry = ::readdir(directory)) {
    if (const auto number = parse_number<pid_t>(entry->d_name)) tids.push_back(Tid{*number});
  }
  ::closedir(directory);
  std::ranges::sort(tids);
  return tids;
}

// How many threads there are, zombies too: field 20 of /proc/PID/stat.
Result<std::size_t> count_threads(Pid pid) {
  const std::string stat = RELIVE_TRY(read_proc(pid, "stat"));
  return stat_number<std::size_t>(stat, 20);
}

std::string command_of(pid_t pid) {
  auto name = read_proc(Pid{pid}, "comm");
  if (!name) return "?";
  while (!name->empty() && name->back() == '\n') name->pop_back();
  return *name;
}

std::unexpected<Error> is_thread_of(Pid pid, pid_t group) {
  return fail(ErrorKind::refused, fmt::format("{} is a thread of task {}", pid.value, group),
              fmt::format("name the task: {}", group));
}

// PF_KTHREAD (include/linux/sched.h) among the flags, field 9 of proc_pid_stat(5).
Result<bool> is_kernel_thread(Pid pid) {
  constexpr std::uint64_t kKernelThread = 0x00200000;
  const std::string stat = RELIVE_TRY(read_proc(pid, "stat"));
  return (RELIVE_TRY(stat_number<std::uint64_t>(stat, 9)) & kKernelThread) != 0;
}

// Why a task cannot be frozen, by name; nothing, if it could be.
Result<void> check_target(Pid pid) {
  auto read = read_proc(pid, "status");
  if (!read) {
    if (read.error().kind == ErrorKind::task_died)
      return fail(ErrorKind::not_found, fmt::format("no process {}", pid.value),
                  "`relive list` names the tasks that have snapshots");
    return std::unexpected(std::move(read).error());
  }
  const std::string& status = *read;
  const auto group = RELIVE_TRY(status_number(status, "Tgid"));
  if (group != pid.value) return is_thread_of(pid, group);
  const bool zombie = status_field(status, "State").starts_with("Z") || status_field(status, "State").starts_with("X");
  if (!zombie && status_field(status, "VmSize").empty()) {
    if (RELIVE_TRY(is_kernel_thread(pid)))
      return fail(ErrorKind::refused, fmt::format("task {} ({}) is a kernel thread", pid.value, command_of(pid.value)));
    return fail(ErrorKind::task_died, fmt::format("task {} is about to end: it has no memory any more", pid.value));
  }
  if (zombie && status_field(status, "Threads") == "1")
    return fail(ErrorKind::refused, fmt::format("task {} ({}) is a zombie: it has ended and waits for its parent",
                                                pid.value, command_of(pid.value)));
  if (zombie)
    return fail(
        ErrorKind::refused,
        fmt::format("the leader of task {} ({}) has ended while other threads go on", pid.value, command_of(pid.value)),
        "this release works on tasks whose main thread lives");
  const auto tracer = RELIVE_TRY(status_number(status, "TracerPid"));
  if (tracer != 0)
    return fail(ErrorKind::busy, fmt::format("task {} is traced by {} ({})", pid.value, tracer, command_of(tracer)),
                "detach the debugger, or wait for the other command");
  return {};
}

bool ended(Pid pid, Tid tid) {
  const auto status = read_proc(pid, fmt::format("task/{}/status", tid.value));
  if (!status) return true;
  const auto state = status_field(*status, "State");
  return state.starts_with("Z") || state.starts_with("X");
}

Result<user_regs_struct> get_registers(Tid tid) {
  user_regs_struct registers{};
  iovec vector{.iov_base = &registers, .iov_len = sizeof registers};
  if (trace(PTRACE_GETREGSET, tid, reinterpret_cast<void*>(NT_PRSTATUS), &vector) != 0)
    return fail_errno("PTRACE_GETREGSET NT_PRSTATUS", name_of(tid));
  if (vector.iov_len != sizeof registers)
    return fail(ErrorKind::unsupported, fmt::format("{} runs 32-bit code", name_of(tid)));
  return registers;
}

bool traced_by_us(Pid pid, Tid tid) {
  const auto status = read_proc(pid, fmt::format("task/{}/status", tid.value));
  return status && status_field(*status, "TracerPid") == std::to_string(::getpid());
}

std::uint64_t options_for(bool suspend_seccomp) {
  const std::uint64_t options = PTRACE_O_TRACECLONE | PTRACE_O_TRACESYSGOOD;
  return suspend_seccomp ? options | PTRACE_O_SUSPEND_SECCOMP : options;
}

// Has it a filter that we must suspend, so that the parasite may call what it needs?
bool is_filtered(std::string_view status) {
  const std::string_view mode = status_field(status, "Seccomp");
  return !mode.empty() && mode != "0";
}

// Seizes one thread. false: it ended meanwhile.
Result<bool> seize(Pid pid, Tid tid) {
  if (trace(PTRACE_SEIZE, tid, nullptr, reinterpret_cast<void*>(options_for(false))) == 0) return true;
  const int error_number = errno;
  if (error_number == ESRCH || ended(pid, tid)) return false;
  if (traced_by_us(pid, tid)) return true;  // attached as it was born, or lingering
  auto error = fail_errno("PTRACE_SEIZE", name_of(tid), error_number);
  if (error.error().kind == ErrorKind::permission)
    error.error().hint =
        "relive works on your own tasks; for another user's, CAP_SYS_PTRACE is needed (and see "
        "kernel.yama.ptrace_scope)";
  return error;
}

// Of a thread that stands: its filters let the parasite call what it needs, until it is detached.
Result<void> suspend_filters(Pid pid, Tid tid) {
  if (trace(PTRACE_SETOPTIONS, tid, nullptr, reinterpret_cast<void*>(options_for(true))) == 0) return {};
  if (errno != EPERM) return fail_errno("PTRACE_SETOPTIONS", name_of(tid));
  return fail(ErrorKind::refused, fmt::format("task {} has a seccomp filter, which relive may not suspend", pid.value),
              "CAP_SYS_ADMIN is needed for PTRACE_O_SUSPEND_SECCOMP");
}

// Has the thread a signal that would be delivered when it goes on?
bool signal_deliverable(const FrozenTask& task, Tid tid) {
  const auto status = task.status(tid);
  if (!status) return false;
  const auto mask = [&](std::string_view name) { return signal_set(*status, name); };
  return ((mask("SigPnd") | mask("ShdPnd")) & ~mask("SigBlk")) != 0;
}

// SIGSTOP is about to be delivered: it can be blocked by nobody, so it comes while a thread runs for us, too.
bool is_told_to_stop(int status) { return WIFSTOPPED(status) && status >> 16 == 0 && WSTOPSIG(status) == SIGSTOP; }

// It is to stop the task when the task goes on, not us: it waits in the queue of a task that stands. Unless SIGCONT has
// come meanwhile, which takes it away (signal(7)), and which is blocked while a thread runs for us.
void put_stop_back(Pid pid) {
  const auto status = read_proc(pid, "status");
  if (!status) return;
  const std::uint64_t pending = signal_set(*status, "SigPnd") | signal_set(*status, "ShdPnd");
  if ((pending >> (SIGCONT - 1) & 1U) == 0) ::kill(pid.value, SIGSTOP);
}

// See FrozenThread::registers. EINTR says that the call has done nothing, except for the two that are left alone.
Result<void> reissue_broken_off_call(const FrozenTask& task, FrozenThread& thread) {
  constexpr std::uint64_t kClose = 3, kConnect = 42;
  user_regs_struct& registers = thread.registers;
  if (static_cast<std::int64_t>(registers.rax) != -EINTR || static_cast<std::int64_t>(registers.orig_rax) < 0)
    return {};
  if (registers.orig_rax == kClose || registers.orig_rax == kConnect || signal_deliverable(task, thread.tid)) return {};
  registers.rax = registers.orig_rax;
  registers.orig_rax = ~0ULL;
  registers.rip -= 2;  // over the two bytes of `syscall`
  iovec vector{.iov_base = &registers, .iov_len = sizeof registers};
  if (trace(PTRACE_SETREGSET, thread.tid, reinterpret_cast<void*>(NT_PRSTATUS), &vector) != 0)
    return fail_errno("PTRACE_SETREGSET NT_PRSTATUS", name_of(thread.tid));
  return {};
}

struct CriticalSection {  // struct rseq_cs (include/uapi/linux/rseq.h)
  std::uint32_t version, flags;
  std::uint64_t start, length, abort;
};
constexpr std::uint64_t kCriticalSectionPointer = 8;  // in struct rseq

// A thread inside an rseq critical section goes on at its abort handler, as after any preemption. The kernel would see
// to it, but only as long as nothing of ours runs in the thread: its first return to code elsewhere forgets the
// section.
Result<void> leave_critical_section(const FrozenTask& task, FrozenThread& thread) {
  user_regs_struct& registers = thread.registers;
  if (static_cast<std::int64_t>(registers.orig_rax) >= 0) return {};  // no section contains a system call
  __ptrace_rseq_configuration rseq{};
  if (::ptrace(static_cast<__ptrace_request>(PTRACE_GET_RSEQ_CONFIGURATION), thread.tid.value, sizeof rseq, &rseq) <
          0 ||
      rseq.rseq_abi_pointer == 0)
    return {};  // Linux < 5.13, no rseq in this kernel, or not registered
  const auto read = [&](std::uint64_t from, auto& value) {
    return task.read(model::TaskAddress{from}, std::as_writable_bytes(std::span(&value, 1))).has_value();
  };
  std::uint64_t pointer = 0;
  CriticalSection section{};
  if (!read(rseq.rseq_abi_pointer + kCriticalSectionPointer, pointer) || pointer == 0 || !read(pointer, section))
    return {};
  if (registers.rip - section.start >= section.length) return {};
  registers.rip = section.abort;
  iovec vector{.iov_base = &registers, .iov_len = sizeof registers};
  if (trace(PTRACE_SETREGSET, thread.tid, reinterpret_cast<void*>(NT_PRSTATUS), &vector) != 0)
    return fail_errno("PTRACE_SETREGSET NT_PRSTATUS", name_of(thread.tid));
  return {};
}

enum class Arrival : std::uint8_t { trapped, job_stopped, ended };

// Waits until a seized and interrupted thread stands in its trap.
Result<Arrival> wait_for_trap(Tid tid, std::uint64_t deadline_ns) {
  for (unsigned tries = 0;; ++tries) {
    int status = 0;
    const pid_t got = ::waitpid(tid.value, &status, __WALL | WNOHANG);
    if (got < 0 && errno == ECHILD) return Arrival::ended;
    if (got < 0 && errno != EINTR) return fail_errno("waitpid", name_of(tid));
    if (got == tid.value) {
      if (WIFEXITED(status) || WIFSIGNALED(status)) return Arrival::ended;
      if (status >> 16 == kEventStop) return WSTOPSIG(status) == SIGTRAP ? Arrival::trapped : Arrival::job_stopped;
      // A signal or an event came first: let it happen.
      const int signal = status >> 16 == 0 ? WSTOPSIG(status) : 0;
      if (trace(PTRACE_CONT, tid, nullptr, reinterpret_cast<void*>(static_cast<std::uintptr_t>(signal))) != 0 &&
          errno != ESRCH)
        return fail_errno("PTRACE_CONT", name_of(tid));
      // Any stop takes a pending interrupt with it (ptrace_stop() in kernel/signal.c): ask again.
      if (trace(PTRACE_INTERRUPT, tid, nullptr, nullptr) != 0 && errno != ESRCH)
        return fail_errno("PTRACE_INTERRUPT", name_of(tid));
      continue;
    }
    if (tries < 64) {
      ::sched_yield();
      continue;
    }
    if (now_ns() > deadline_ns)
      return fail(ErrorKind::refused,
                  fmt::format("{} does not stop: it waits in the kernel for a vfork child or a device", name_of(tid)),
                  "try again when it has come back");
    const timespec pause{.tv_sec = 0, .tv_nsec = 50'000};
    ::nanosleep(&pause, nullptr);
  }
}

// Detaches a thread. false: it has not come to its stop yet.
bool let_go(Tid tid) {
  if (trace(PTRACE_DETACH, tid, nullptr, nullptr) == 0) return true;
  int status = 0;
  const pid_t got = ::waitpid(tid.value, &status, __WALL | WNOHANG);
  if (got == 0) return false;
  if (got == tid.value && WIFSTOPPED(status)) {
    const int signal = status >> 16 == 0 ? WSTOPSIG(status) : 0;
    trace(PTRACE_DETACH, tid, nullptr, reinterpret_cast<void*>(static_cast<std::uintptr_t>(signal)));
  }
  return true;
}

// What is still attached of a task that was let go: threads that had not come to their stop, and those that such a
// thread makes until it stops (PTRACE_O_TRACECLONE).
struct Lingering {
  Pid pid;
  std::vector<Tid> tids;
};
std::vector<Lingering> lingering;

void keep_lingering(Pid pid, const std::vector<Tid>& tids) {
  auto known = std::ranges::find(lingering, pid, &Lingering::pid);
  if (known == lingering.end()) known = lingering.insert(lingering.end(), {pid, {}});
  for (const Tid tid : tids)
    if (std::ranges::find(known->tids, tid) == known->tids.end()) known->tids.push_back(tid);
}

// Detaches whatever has stopped. true: nothing of the task is attached to us any more.
bool settle(Lingering& task) {
  std::erase_if(task.tids, let_go);
  // Behind that: whom a thread made before it stopped can be seen now. A listing that is not whole is made again later.
  const auto threads_before = count_threads(task.pid);
  const auto listed = list_threads(task.pid);
  const auto threads_behind = count_threads(task.pid);
  if (!threads_before || !listed || !threads_behind) return true;  // it has ended
  for (const Tid tid : *listed) {
    if (std::ranges::find(task.tids, tid) != task.tids.end() || !traced_by_us(task.pid, tid)) continue;
    if (!let_go(tid)) task.tids.push_back(tid);
  }
  return task.tids.empty() && listed->size() == *threads_before && listed->size() == *threads_behind;
}

Result<void> read_thread(FrozenThread& thread) {
  thread.registers = RELIVE_TRY(get_registers(thread.tid));
  if (trace(PTRACE_GETSIGMASK, thread.tid, reinterpret_cast<void*>(sizeof thread.signal_mask), &thread.signal_mask) !=
      0)
    return fail_errno("PTRACE_GETSIGMASK", name_of(thread.tid));
  return {};
}

}  // namespace

Result<FrozenTask> FrozenTask::freeze(Pid pid, int patience_ms) {
  if (pid.value == ::getpid()) return fail(ErrorKind::refused, fmt::format("task {} is relive itself", pid.value));
  FrozenTask task;
  task.pid_ = pid;
  task.pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid.value, 0)));
  if (!task.pidfd_) {
    RELIVE_TRY(check_target(pid));
    return fail_errno("pidfd_open", fmt::format("task {}", pid.value));
  }

  task.frozen_since_ns_ = now_ns();
  task.frozen_ = true;  // from here on the destructor lets go whatever has been seized
  const std::uint64_t deadline = task.frozen_since_ns_ + static_cast<std::uint64_t>(patience_ms) * 1'000'000U;
  std::vector<Tid> listed{Tid{pid.value}};  // most have no other
  for (;;) {
    std::vector<Tid> fresh;
    for (const Tid tid : listed) {
      if (task.find(tid) != nullptr) continue;
      auto seized = seize(pid, tid);
      if (!seized || (!*seized && tid.value == pid.value)) RELIVE_TRY(check_target(pid));
      if (!RELIVE_TRY(std::move(seized))) {
        // Born and ended under our hand (PTRACE_O_TRACECLONE) before it was seen: it stays a zombie until we reap it.
        if (!let_go(tid)) keep_lingering(pid, {tid});
        continue;
      }
      FrozenThread thread;
      thread.tid = tid;
      task.threads_.push_back(thread);
      fresh.push_back(tid);
      if (trace(PTRACE_INTERRUPT, tid, nullptr, nullptr) != 0 && errno != ESRCH)
        return fail_errno("PTRACE_INTERRUPT", name_of(tid));
    }
    for (const Tid tid : fresh) {
      const Arrival arrival = RELIVE_TRY(wait_for_trap(tid, deadline));
      if (arrival == Arrival::ended)
        std::erase_if(task.threads_, [&](const FrozenThread& other) { return other.tid == tid; });
      if (arrival == Arrival::job_stopped) task.find(tid)->job_stopped = true;
    }
    // Nobody makes a thread any more when as many stand as there are.
    task.stat_.clear();
    const std::string stat = RELIVE_TRY(task.stat());
    if (RELIVE_TRY(stat_number<std::size_t>(stat, 20)) == task.threads_.size()) break;
    if (now_ns() > deadline)
      return fail(ErrorKind::refused,
                  fmt::format("the threads of task {} come and go too fast to be stopped", pid.value), "try again");
    listed = RELIVE_TRY(list_threads(pid));
  }
  task.whole_ = true;
  if (task.threads_.empty())
    return fail(ErrorKind::task_died, fmt::format("task {} ended while it was being stopped", pid.value));
  std::ranges::sort(task.threads_, {}, &FrozenThread::tid);
  std::ranges::stable_partition(task.threads_,
                                [&](const FrozenThread& thread) { return thread.tid.value == pid.value; });
  for (FrozenThread& thread : task.threads_) {
    const std::string status = RELIVE_TRY(task.status(thread.tid));
    const auto group = RELIVE_TRY(status_number(status, "Tgid"));
    if (group != pid.value) return is_thread_of(pid, group);
    if (is_filtered(status)) RELIVE_TRY(suspend_filters(pid, thread.tid));
    RELIVE_TRY(read_thread(thread));
    RELIVE_TRY(leave_critical_section(task, thread));
    RELIVE_TRY(reissue_broken_off_call(task, thread));
  }
  task.start_time_ = RELIVE_TRY(relive::task::start_time(task.stat_));
  return task;
}

Result<FrozenTask> FrozenTask::born(Pid pid) {
  FrozenTask task;
  task.pid_ = pid;
  task.frozen_since_ns_ = now_ns();
  task.frozen_ = task.whole_ = task.blank_ = true;
  RELIVE_TRY(task.adopt(Tid{pid.value}));
  task.threads_.front().born_here = false;  // of this task it is the first, and has a goal like any other
  RELIVE_TRY(task.get_to_know());
  return task;
}

Result<FrozenTask> FrozenTask::fork_here(Pid pid) {
  constexpr std::uint64_t kPatienceNs = 2'000'000'000;
  // It ends when we do, until it is ours by PTRACE_O_EXITKILL: it waits for what nobody writes.
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno("pipe2", "");
  const UniqueFd reads(ends[0]);
  const UniqueFd writes(ends[1]);
  pid_t id = pid.value;
  clone_args arguments{};
  arguments.exit_signal = SIGCHLD;
  arguments.set_tid = reinterpret_cast<std::uint64_t>(&id);
  arguments.set_tid_size = 1;
  const long made = ::syscall(SYS_clone3, &arguments, sizeof arguments);
  if (made == 0) {
    char never = 0;
    ::syscall(SYS_close, writes.get());
    ::syscall(SYS_read, reads.get(), &never, 1);
    ::syscall(SYS_exit_group, 0);
  }
  const std::string name = fmt::format("task {}", pid.value);
  if (made < 0 && errno == EEXIST)
    return fail(ErrorKind::refused, fmt::format("the id of {} is taken by another task now", name), "end that task");
  if (made < 0 && errno == EPERM)
    return fail(ErrorKind::refused, fmt::format("the id of {} may not be chosen", name),
                "needs CAP_CHECKPOINT_RESTORE in relive (setcap, or run it as root)");
  if (made < 0) return fail_errno("clone3", name);
  FrozenTask task;
  task.pid_ = pid;
  task.frozen_since_ns_ = now_ns();
  task.frozen_ = task.whole_ = task.blank_ = true;
  const Tid tid{pid.value};
  task.threads_.push_back(FrozenThread{});
  task.threads_.front().tid = tid;
  if (!RELIVE_TRY(seize(pid, tid)) || trace(PTRACE_INTERRUPT, tid, nullptr, nullptr) != 0 ||
      RELIVE_TRY(wait_for_trap(tid, now_ns() + kPatienceNs)) != Arrival::trapped)
    return fail(ErrorKind::task_died, fmt::format("{} ended as it was made", name));
  RELIVE_TRY(task.get_to_know());
  return task;
}

Result<void> FrozenTask::get_to_know() {
  FrozenThread& thread = threads_.front();
  const bool filtered = is_filtered(RELIVE_TRY(read_proc(pid_, "status")));
  if (trace(PTRACE_SETOPTIONS, thread.tid, nullptr,
            reinterpret_cast<void*>(options_for(filtered) | std::uint64_t{PTRACE_O_EXITKILL})) != 0)
    return fail_errno("PTRACE_SETOPTIONS", name_of(thread.tid));
  RELIVE_TRY(read_thread(thread));
  pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_.value, 0)));
  if (!pidfd_) return fail_errno("pidfd_open", fmt::format("task {}", pid_.value));
  start_time_ = RELIVE_TRY(relive::task::start_time(RELIVE_TRY(stat())));
  return {};
}

Result<std::string> FrozenTask::stat() const {
  if (stat_.empty() || blank_) stat_ = RELIVE_TRY(read_proc(pid_, "stat"));
  return stat_;
}

Result<std::string> FrozenTask::status(Tid tid) const {
  std::string& known = statuses_[tid];
  if (known.empty() || blank_) known = RELIVE_TRY(read_proc(pid_, fmt::format("task/{}/status", tid.value)));
  return known;
}

Result<int> FrozenTask::memory() const {
  if (!memory_) memory_ = RELIVE_TRY(open_proc(pid_, "mem", O_RDWR));
  return memory_.get();
}

Result<void> FrozenTask::renew() {
  memory_.reset();
  RELIVE_TRY(read_thread(threads_.front()));
  threads_.front().registers.orig_rax = ~0ULL;  // it stands behind the call
  return {};
}

Result<void> FrozenTask::let_live() {
  lives_on_ = true;
  const bool filtered = is_filtered(RELIVE_TRY(read_proc(pid_, "status")));
  for (const FrozenThread& thread : threads_) {
    if (trace(PTRACE_SETOPTIONS, thread.tid, nullptr, reinterpret_cast<void*>(options_for(filtered))) != 0)
      return fail_errno("PTRACE_SETOPTIONS", name_of(thread.tid));
  }
  return {};
}

void FrozenTask::end() {
  if (!frozen_) return;
  ::syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
  if (!pidfd_) ::kill(pid_.value, SIGKILL);
  // The leader is reported last of all (delay_group_leader() in kernel/exit.c).
  const std::vector<FrozenThread> threads(threads_.rbegin(), threads_.rend());
  for (const FrozenThread& thread : threads) [[maybe_unused]]
    const auto gone = wait_gone(thread.tid);
  frozen_ = false;
}

Result<void> FrozenTask::see_forks(Tid tid, bool see) const {
  std::uint64_t options = options_for(is_filtered(RELIVE_TRY(read_proc(pid_, "status"))));
  if (see) options |= PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK;
  if (blank_ && !lives_on_) options |= PTRACE_O_EXITKILL;
  if (trace(PTRACE_SETOPTIONS, tid, nullptr, reinterpret_cast<void*>(options)) != 0)
    return fail_errno("PTRACE_SETOPTIONS", name_of(tid));
  return {};
}

FrozenTask::FrozenTask(FrozenTask&& other) noexcept
    : pid_(other.pid_),
      pidfd_(std::move(other.pidfd_)),
      memory_(std::move(other.memory_)),
      stat_(std::move(other.stat_)),
      statuses_(std::move(other.statuses_)),
      start_time_(other.start_time_),
      threads_(std::move(other.threads_)),
      frozen_since_ns_(other.frozen_since_ns_),
      whole_(other.whole_),
      blank_(other.blank_),
      lives_on_(other.lives_on_),
      frozen_(std::exchange(other.frozen_, false)) {}

FrozenTask::~FrozenTask() {
  if (blank_) end();
  resume();
}

void FrozenTask::resume() {
  if (!std::exchange(frozen_, false)) return;
  std::vector<Tid> left;
  for (const FrozenThread& thread : threads_)
    if (!let_go(thread.tid)) left.push_back(thread.tid);
  if (whole_ && left.empty()) return;
  keep_lingering(pid_, left);
  // A freeze that was given up: threads born under our hand meanwhile are attached, and nobody has them in a list.
  release_lingering();
}

std::size_t release_lingering() {
  std::erase_if(lingering, settle);
  return lingering.size();
}

FrozenThread* FrozenTask::find(Tid tid) {
  const auto at = std::ranges::find(threads_, tid, &FrozenThread::tid);
  return at == threads_.end() ? nullptr : &*at;
}

Result<UniqueFd> FrozenTask::borrow(model::RemoteFd fd) const {
  UniqueFd mine(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd_.get(), fd.value, 0)));
  if (!mine) return fail_errno("pidfd_getfd", fmt::format("descriptor {} of task {}", fd.value, pid_.value));
  return mine;
}

Result<void> FrozenTask::read(model::TaskAddress from, std::span<std::byte> into) const {
  const iovec here{.iov_base = into.data(), .iov_len = into.size()};
  const iovec there{.iov_base = reinterpret_cast<void*>(from.value), .iov_len = into.size()};
  if (::process_vm_readv(pid_.value, &here, 1, &there, 1, 0) == static_cast<ssize_t>(into.size())) return {};
  // Memory that the task itself may not read: /proc/PID/mem reaches it (FOLL_FORCE).
  if (::pread(RELIVE_TRY(memory()), into.data(), into.size(), static_cast<off_t>(from.value)) ==
      static_cast<ssize_t>(into.size()))
    return {};
  return fail_errno("read", fmt::format("{} bytes at {:#x} of task {}", into.size(), from.value, pid_.value));
}

Result<void> FrozenTask::write(model::TaskAddress to, std::span<const std::byte> bytes) const {
  if (::pwrite(RELIVE_TRY(memory()), bytes.data(), bytes.size(), static_cast<off_t>(to.value)) ==
      static_cast<ssize_t>(bytes.size()))
    return {};
  return fail_errno("write", fmt::format("{} bytes at {:#x} of task {}", bytes.size(), to.value, pid_.value));
}

Result<int> FrozenTask::run_until_stop(Tid tid, int request) {
  if (trace(request, tid, nullptr, nullptr) != 0) return fail_errno("PTRACE_CONT", name_of(tid));
  bool told_to_stop = false;
  for (;;) {
    int status = 0;
    if (::waitpid(tid.value, &status, __WALL) < 0) {
      if (errno == EINTR) continue;
      return fail_errno("waitpid", name_of(tid), errno == ECHILD ? ESRCH : errno);
    }
    if (is_told_to_stop(status)) {
      told_to_stop = true;
      if (trace(request, tid, nullptr, nullptr) != 0 && errno != ESRCH) return fail_errno("PTRACE_CONT", name_of(tid));
      continue;
    }
    if (WIFSTOPPED(status)) {
      if (told_to_stop) put_stop_back(pid_);
      return status;
    }
    std::erase_if(threads_, [&](const FrozenThread& thread) { return thread.tid == tid; });
    return fail(ErrorKind::task_died, fmt::format("{} ended while relive had it in its hand", name_of(tid)));
  }
}

Result<user_regs_struct> FrozenTask::registers(Tid tid) const { return get_registers(tid); }

Result<void> FrozenTask::set_registers(Tid tid, const user_regs_struct& registers) const {
  user_regs_struct copy = registers;
  iovec vector{.iov_base = &copy, .iov_len = sizeof copy};
  if (trace(PTRACE_SETREGSET, tid, reinterpret_cast<void*>(NT_PRSTATUS), &vector) != 0)
    return fail_errno("PTRACE_SETREGSET NT_PRSTATUS", name_of(tid));
  return {};
}

Result<std::vector<std::byte>> FrozenTask::xstate(Tid tid) const {
  std::vector<std::byte> bytes(kMostXstate);
  iovec vector{.iov_base = bytes.data(), .iov_len = bytes.size()};
  if (trace(PTRACE_GETREGSET, tid, reinterpret_cast<void*>(NT_X86_XSTATE), &vector) != 0)
    return fail_errno("PTRACE_GETREGSET NT_X86_XSTATE", name_of(tid));
  bytes.resize(vector.iov_len);
  return bytes;
}

Result<void> FrozenTask::set_xstate(Tid tid, std::span<const std::byte> xstate) const {
  std::vector<std::byte> copy(xstate.begin(), xstate.end());
  iovec vector{.iov_base = copy.data(), .iov_len = copy.size()};
  if (trace(PTRACE_SETREGSET, tid, reinterpret_cast<void*>(NT_X86_XSTATE), &vector) != 0)
    return fail_errno("PTRACE_SETREGSET NT_X86_XSTATE", name_of(tid));
  return {};
}

Result<void> FrozenTask::set_signal_mask(Tid tid, std::uint64_t mask) const {
  if (trace(PTRACE_SETSIGMASK, tid, reinterpret_cast<void*>(sizeof mask), &mask) != 0)
    return fail_errno("PTRACE_SETSIGMASK", name_of(tid));
  return {};
}

Result<void> FrozenTask::adopt(Tid tid) {
  int status = 0;
  while (::waitpid(tid.value, &status, __WALL) < 0) {
    if (errno != EINTR) return fail_errno("waitpid", name_of(tid));
  }
  if (!WIFSTOPPED(status)) return fail(ErrorKind::task_died, fmt::format("new {} ended at once", name_of(tid)));
  FrozenThread thread;
  thread.tid = tid;
  thread.born_here = true;
  thread.registers = RELIVE_TRY(get_registers(tid));
  threads_.push_back(thread);
  return {};
}

Result<void> FrozenTask::wait_gone(Tid tid) {
  bool told_to_stop = false;
  for (;;) {
    int status = 0;
    const pid_t got = ::waitpid(tid.value, &status, __WALL);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 || WIFEXITED(status) || WIFSIGNALED(status)) break;
    told_to_stop = told_to_stop || is_told_to_stop(status);
    if (trace(PTRACE_CONT, tid, nullptr, nullptr) != 0 && errno != ESRCH)
      return fail_errno("PTRACE_CONT", name_of(tid));
  }
  if (told_to_stop) put_stop_back(pid_);
  std::erase_if(threads_, [&](const FrozenThread& thread) { return thread.tid == tid; });
  return {};
}

}  // namespace relive::task
