#include "capture/threads.h"

#include <linux/ioprio.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "capture/credentials.h"
#include "capture/pending.h"
#include "parasite/frame.h"
#include "task/kernel_structs.h"
#include "task/procfs.h"
#include "task/signal_set.h"

namespace relive::capture {

namespace {

using model::TaskAddress;
using model::Thread;
using parasite::Program;
using task::KernelSchedAttributes;
using task::KernelStack;

constexpr int kRestartSyscall = 219;
constexpr std::int64_t kRestartBlock = -516;  // ERESTART_RESTARTBLOCK

Result<void> name_restarted_call(parasite::Visit& visit, const task::FrozenThread& thread,
                                 user_regs_struct& registers) {
  if (registers.orig_rax != kRestartSyscall) return {};
  if (const auto known = visit.session().broken_off_call(thread)) {
    registers.orig_rax = static_cast<std::uint64_t>(*known);
    return {};
  }
  const task::FrozenTask& task = visit.task();
  std::array<std::byte, 64> code{};
  const TaskAddress instruction{registers.rip - 2};
  const bool readable = task.read(TaskAddress{instruction.value - code.size()}, code).has_value();
  const int number = readable ? restarted_call(code) : -1;
  if (number < 0)
    return fail(ErrorKind::refused,
                fmt::format("thread {} sleeps in a restarted system call that cannot be told", thread.tid.value),
                "try again when it has woken up");
  registers.orig_rax = static_cast<std::uint64_t>(number);
  return {};
}

Result<model::Rseq> read_rseq(model::Tid tid) {
  __ptrace_rseq_configuration configuration{};
  if (::ptrace(static_cast<__ptrace_request>(PTRACE_GET_RSEQ_CONFIGURATION), tid.value, sizeof configuration,
               &configuration) < 0) {
    if (errno == EIO || errno == EINVAL) return model::Rseq{};  // Linux < 5.13, or no rseq in this kernel
    return fail_errno("PTRACE_GET_RSEQ_CONFIGURATION", fmt::format("thread {}", tid.value));
  }
  return model::Rseq{.area = TaskAddress{configuration.rseq_abi_pointer},
                     .size = configuration.rseq_abi_size,
                     .signature = configuration.signature,
                     .flags = configuration.flags};
}

// What only the thread can tell.
struct Inside {
  KernelStack stack;
  std::int32_t parent_death_signal, pad;
  std::uint64_t clear_child_tid;
  std::array<char, 16> name;
};

Result<void> ask_inside(parasite::Visit& visit, Thread& thread) {
  const parasite::ArenaPiece piece = RELIVE_TRY(visit.arena().take(sizeof(Inside)));
  const std::uint64_t at = piece.there.value;
  Program program;
  program.syscall("sigaltstack", SYS_sigaltstack, {0, at + offsetof(Inside, stack)});
  program.syscall("PR_GET_PDEATHSIG", SYS_prctl, {PR_GET_PDEATHSIG, at + offsetof(Inside, parent_death_signal)});
  program.syscall("PR_GET_TID_ADDRESS", SYS_prctl, {PR_GET_TID_ADDRESS, at + offsetof(Inside, clear_child_tid)});
  program.syscall("PR_GET_NAME", SYS_prctl, {PR_GET_NAME, at + offsetof(Inside, name)});
  const std::size_t slack = program.syscall("PR_GET_TIMERSLACK", SYS_prctl, {PR_GET_TIMERSLACK});
  const std::size_t secure_bits = program.syscall("PR_GET_SECUREBITS", SYS_prctl, {PR_GET_SECUREBITS});
  RELIVE_TRY(visit.run_on(thread.tid, program));
  Inside inside{};
  std::memcpy(&inside, piece.here, sizeof inside);
  thread.alternate_stack = {
      .base = TaskAddress{inside.stack.base}, .flags = inside.stack.flags, .size = inside.stack.size};
  thread.parent_death_signal = inside.parent_death_signal;
  thread.clear_child_tid = TaskAddress{inside.clear_child_tid};
  thread.name.assign(inside.name.data(), ::strnlen(inside.name.data(), inside.name.size()));
  thread.timer_slack_ns = static_cast<std::uint64_t>(program.result(slack));
  thread.secure_bits = static_cast<std::uint32_t>(program.result(secure_bits));
  return {};
}

Result<Thread> read_thread(parasite::Visit& visit, const task::FrozenThread& frozen, Depth depth) {
  const task::FrozenTask& task = visit.task();
  Thread thread;
  thread.tid = frozen.tid;
  thread.signal_mask = frozen.signal_mask;
  thread.registers = frozen.registers;
  if (static_cast<std::int64_t>(frozen.registers.rax) == kRestartBlock) {
    const auto named = name_restarted_call(visit, frozen, thread.registers);
    // A way back puts others in the place of these registers.
    if (!named && depth == Depth::full) return std::unexpected(named.error());
  }
  thread.registers = parasite::reissue_system_call(thread.registers);
  thread.rseq = RELIVE_TRY(read_rseq(frozen.tid));
  thread.xstate = RELIVE_TRY(task.xstate(frozen.tid));
  std::uint64_t head = 0;
  std::size_t length = 0;
  if (::syscall(SYS_get_robust_list, frozen.tid.value, &head, &length) == 0)
    thread.robust_list = {.head = TaskAddress{head}, .length = length};
  RELIVE_TRY(read_scheduling(thread));
  const std::string status = RELIVE_TRY(task.status(frozen.tid));
  thread.credentials = RELIVE_TRY(parse_credentials(status));
  const std::uint64_t pending = task::signal_set(status, "SigPnd");
  if (pending != 0) thread.pending = RELIVE_TRY(read_pending(frozen.tid, QueueOf::thread, pending));
  thread.inside_known = depth == Depth::full;
  if (thread.inside_known)
    RELIVE_TRY(ask_inside(visit, thread));
  else
    thread.name = task::status_field(status, "Name");
  return thread;
}

}  // namespace

Result<void> read_scheduling(Thread& thread) {
  const auto object = [&] { return fmt::format("thread {}", thread.tid.value); };
  KernelSchedAttributes attributes{};
  if (::syscall(SYS_sched_getattr, thread.tid.value, &attributes, sizeof attributes, 0) != 0)
    return fail_errno("sched_getattr", object());
  thread.scheduling = {.policy = attributes.policy,
                       .flags = attributes.flags,
                       .nice = attributes.nice,
                       .priority = attributes.priority,
                       .runtime = attributes.runtime,
                       .deadline = attributes.deadline,
                       .period = attributes.period};
  std::array<std::uint64_t, 128> mask{};  // 8,192 CPUs
  const long bytes = ::syscall(SYS_sched_getaffinity, thread.tid.value, sizeof mask, mask.data());
  if (bytes < 0) return fail_errno("sched_getaffinity", object());
  thread.affinity.assign(mask.begin(), mask.begin() + (bytes + 7) / 8);
  while (!thread.affinity.empty() && thread.affinity.back() == 0) thread.affinity.pop_back();
  const long priority = ::syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, thread.tid.value);
  if (priority < 0) return fail_errno("ioprio_get", object());
  thread.io_priority = static_cast<std::uint32_t>(priority);
  return {};
}

int restarted_call(std::span<const std::byte> code_before) {
  constexpr std::array<int, 4> kCandidates = {35, 230, 7, 202};  // nanosleep, clock_nanosleep, poll, futex
  for (std::size_t at = code_before.size(); at >= 5; --at) {
    const std::size_t begin = at - 5;
    if (code_before[begin] != std::byte{0xb8}) continue;  // mov imm32, %eax
    std::int32_t number = 0;
    std::memcpy(&number, code_before.data() + begin + 1, sizeof number);
    for (const int candidate : kCandidates)
      if (number == candidate) return candidate;
  }
  return -1;
}

Result<std::vector<Thread>> read_threads(parasite::Visit& visit, Depth depth) {
  std::vector<Thread> threads;
  for (const task::FrozenThread& frozen : visit.task().threads())
    threads.push_back(RELIVE_TRY(
        with_context(read_thread(visit, frozen, depth), fmt::format("reading thread {}", frozen.tid.value))));
  return threads;
}

}  // namespace relive::capture
