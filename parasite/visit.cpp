// A visit: programs that run on the driver thread, and what undoes them.
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "base/fault.h"
#include "parasite/remote_syscall.h"
#include "parasite/visit_state.h"
#include "task/procfs.h"

namespace relive::parasite {

namespace {

using model::RemoteFd;
using model::TaskAddress;
using model::Tid;

constexpr std::size_t kDriverStack = 32 << 10;
constexpr std::size_t kUndoCapacity = 8192;
constexpr std::uint64_t kTrapFlag = 0x100, kDirectionFlag = 0x400;  // eflags
constexpr std::uint64_t kSpareSpace = std::uint64_t{1} << 44;       // address space for spare ranges: 16 TiB at most
constexpr std::uint64_t kLeastSpareSpace = std::uint64_t{1} << 30;

// What is blocked while the parasite runs: everything but the faults it could cause (a blocked fault would reset the
// task's own action) and its breakpoint; what the thread had blocked stays so.
std::uint64_t parasite_mask(std::uint64_t own) {
  const std::uint64_t open = bit_of(SIGSEGV) | bit_of(SIGBUS) | bit_of(SIGILL) | bit_of(SIGFPE);
  return (~open | own) & ~bit_of(SIGTRAP);
}

}  // namespace

Visit::Visit(task::FrozenTask& task, Session& session)
    : task_(&task), session_(&session), state_(std::make_unique<State>()) {}

Visit::Visit(Visit&& other) noexcept
    : task_(std::exchange(other.task_, nullptr)),
      session_(other.session_),
      driver_(other.driver_),
      state_(std::move(other.state_)) {}

Result<TaskAddress> original_frame(task::FrozenTask& task, Arena& arena, const task::FrozenThread& thread) {
  const std::vector<std::byte> xstate = RELIVE_TRY(task.xstate(thread.tid));
  return put_frame(
      arena, {.registers = reissue_system_call(thread.registers), .xstate = xstate, .signal_mask = thread.signal_mask});
}

Result<ThreadRoom> make_room(Arena& arena, Tid tid, std::size_t stack_bytes, TaskAddress frame) {
  ThreadRoom block;
  block.piece = RELIVE_TRY(arena.take(sizeof(wire::ThreadBlock)));
  const ArenaPiece stack = RELIVE_TRY(arena.take(stack_bytes));
  block.stack_top = stack.there.value + stack_bytes;
  wire::ThreadBlock& value = block.value();
  value.original_frame = frame.value;
  value.program.failed = -1;
  value.stack_top = block.stack_top;
  value.tid = tid.value;
  return block;
}

Result<void> put_program(Arena& arena, const Program& program, wire::Program& into) {
  into = {};
  into.failed = -1;
  if (!program.empty()) into.operations = RELIVE_TRY(arena.put(std::as_bytes(std::span(program.operations())))).value;
  into.count = static_cast<std::uint32_t>(program.size());
  return {};
}

Result<void> take_results(Arena& arena, const wire::Program& ran, Program& program, std::string_view where) {
  if (!program.empty())
    std::memcpy(program.operations().data(), arena.local(TaskAddress{ran.operations}),
                program.size() * sizeof(wire::Operation));
  if (ran.failed < 0) return {};
  const auto index = static_cast<std::size_t>(ran.failed);
  return fail_errno(program.what(index), where, static_cast<int>(-program.result(index)));
}

user_regs_struct enter(const user_regs_struct& base, TaskAddress entry, const Arena& arena, const ThreadRoom& room) {
  user_regs_struct registers = base;
  registers.rip = entry.value;
  registers.rbx = arena.control_address().value;
  registers.rbp = room.piece.there.value;
  registers.rsp = room.stack_top;
  registers.rax = 0;
  registers.orig_rax = ~0ULL;  // no system call to restart
  registers.eflags &= ~(kTrapFlag | kDirectionFlag);
  return registers;
}

void Visit::take_arena() {
  arena().reset();
  state_->code = session_->code_;
  driver_ = task_->threads()[0].tid;
  wire::Control& control = arena().control();
  control = {};
  control.phase = wire::Phase::prepare;
  control.undo.failed = control.commit.failed = -1;
  control.saved_trap_action[0] = wire::kNoTrapSaved;
}

Result<Visit> Visit::begin(task::FrozenTask& task, Session& session) {
  Visit visit(task, session);
  visit.take_arena();
  session.note_broken_off(task);
  Arena& arena = session.arena();
  wire::Control& control = arena.control();
  visit.state_->undo_operations = RELIVE_TRY(arena.take_used(kUndoCapacity * sizeof(wire::Operation)));
  control.undo.operations = visit.state_->undo_operations.there.value;

  const task::FrozenThread& driver = *task.find(visit.driver_);
  auto block =
      RELIVE_TRY(make_room(arena, visit.driver_, kDriverStack, RELIVE_TRY(original_frame(task, arena, driver))));
  block.value().driver = 1;
  visit.state_->blocks.emplace(visit.driver_, block);

  constexpr std::uint64_t kRestorer = 0x04000000, kNoDefer = SA_NODEFER, kInfo = SA_SIGINFO;
  const std::uint64_t action[4] = {session.code_.value + wire::kTrapEntry, kRestorer | kNoDefer | kInfo,
                                   session.code_.value + wire::kRestorerEntry, ~0ULL};
  const TaskAddress action_address = RELIVE_TRY(arena.put(std::as_bytes(std::span(action))));
  RELIVE_TRY(visit.block_signals(driver));
  visit.state_->trap_taken = true;
  const std::int64_t result = RELIVE_TRY(visit.trap_call(
      action_address.value, arena.control_address().value + offsetof(wire::Control, saved_trap_action)));
  if (result < 0)
    return fail_errno("rt_sigaction SIGTRAP", fmt::format("inside task {}", task.pid().value),
                      static_cast<int>(-result));
  return visit;
}

Result<void> Visit::block_signals(const task::FrozenThread& thread) {
  const ThreadRoom& block = state_->blocks.at(thread.tid);
  RELIVE_TRY(
      task_->set_registers(thread.tid, enter(thread.registers, state_->code + wire::kLeaveEntry, arena(), block)));
  return task_->set_signal_mask(thread.tid, parasite_mask(thread.signal_mask));
}

Result<void> Visit::give_back(const task::FrozenThread& thread) {
  RELIVE_TRY(task_->set_signal_mask(thread.tid, thread.signal_mask));
  return task_->set_registers(thread.tid, thread.registers);
}

Result<std::int64_t> Visit::trap_call(std::uint64_t action, std::uint64_t old_action) {
  const ThreadRoom& block = state_->blocks.at(driver_);
  const task::FrozenThread& driver = *task_->find(driver_);
  const user_regs_struct base = enter(driver.registers, state_->code, arena(), block);
  return remote_syscall(*task_, driver_, base, state_->code + wire::kSyscallEntry, SYS_rt_sigaction,
                        {SIGTRAP, action, old_action, 8});
}

Visit::~Visit() {
  if (task_ == nullptr || state_ == nullptr || state_->committed || !task_->frozen()) return;
  if (state_->holds)
    unstage();  // all frames are where the threads stand, so nobody waits for those that were led back already
  else [[maybe_unused]]
    const auto undone = undo();
  const task::FrozenThread* driver = task_->find(driver_);
  if (driver == nullptr) return;
  wire::Control& control = arena().control();
  if (state_->trap_taken && control.saved_trap_action[0] != wire::kNoTrapSaved) {
    [[maybe_unused]] const auto given =
        trap_call(arena().control_address().value + offsetof(wire::Control, saved_trap_action), 0);
    control.saved_trap_action[0] = wire::kNoTrapSaved;
  }
  [[maybe_unused]] const auto given = give_back(*driver);
}

Result<void> Visit::run_at(Tid tid, TaskAddress program_address, const wire::Program& ran) {
  const ThreadRoom& block = state_->blocks.at(tid);
  const task::FrozenThread* thread = task_->find(tid);
  if (thread == nullptr) return fail(ErrorKind::task_died, fmt::format("thread {} is gone", tid.value));
  user_regs_struct registers = enter(thread->registers, state_->code + wire::kRunEntry, arena(), block);
  registers.rdi = program_address.value;
  RELIVE_TRY(task_->set_registers(tid, registers));
  for (;;) {
    const int status = RELIVE_TRY(task_->run_until_stop(tid, PTRACE_CONT));
    if (status >> 16 == PTRACE_EVENT_FORK || status >> 16 == PTRACE_EVENT_VFORK ||
        (status >> 16 == PTRACE_EVENT_CLONE && state_->forking)) {
      continue;  // the child is taken over when its id has come back
    }
    if (status >> 16 == PTRACE_EVENT_CLONE) {
      unsigned long born = 0;
      if (::ptrace(PTRACE_GETEVENTMSG, tid.value, nullptr, &born) != 0)
        return fail_errno("PTRACE_GETEVENTMSG", fmt::format("thread {}", tid.value));
      RELIVE_TRY(task_->adopt(Tid{static_cast<pid_t>(born)}));
      continue;
    }
    if (status >> 16 != 0) continue;  // job control
    const bool ended = ran.done == ran.count || ran.failed >= 0;
    if (WSTOPSIG(status) == SIGTRAP && ended) return {};
    if (WSTOPSIG(status) == SIGTRAP) continue;  // somebody sent one
    const std::uint64_t at = RELIVE_TRY(task_->registers(tid)).rip;
    return fail(ErrorKind::system,
                fmt::format("the parasite got signal {} ({}) at {:#x} in thread {}, in operation {}", WSTOPSIG(status),
                            sigabbrev_np(WSTOPSIG(status)), at, tid.value, ran.done));
  }
}

Result<void> Visit::run(Program& program) {
  if (program.empty()) return {};
  const ArenaPiece piece = RELIVE_TRY(arena().take(sizeof(wire::Program)));
  auto& ran = *reinterpret_cast<wire::Program*>(piece.here);
  RELIVE_TRY(put_program(arena(), program, ran));
  RELIVE_TRY(run_at(driver_, piece.there, ran));
  return take_results(arena(), ran, program, fmt::format("inside task {}", task_->pid().value));
}

Result<void> Visit::run_on(Tid tid, Program& program) {
  if (tid == driver_) return run(program);
  const task::FrozenThread* found = task_->find(tid);
  if (found == nullptr) return fail(ErrorKind::task_died, fmt::format("thread {} is gone", tid.value));
  const task::FrozenThread thread = *found;
  if (!state_->blocks.contains(tid))
    state_->blocks.emplace(
        tid, RELIVE_TRY(make_room(arena(), tid, kThreadStack, RELIVE_TRY(original_frame(*task_, arena(), thread)))));
  const ArenaPiece piece = RELIVE_TRY(arena().take(sizeof(wire::Program)));
  auto& ran = *reinterpret_cast<wire::Program*>(piece.here);
  RELIVE_TRY(put_program(arena(), program, ran));
  RELIVE_TRY(block_signals(thread));
  const Result<void> outcome = run_at(tid, piece.there, ran);
  if (task_->find(tid) != nullptr) RELIVE_TRY(give_back(thread));
  RELIVE_TRY(Result<void>(outcome));
  return take_results(arena(), ran, program, fmt::format("inside thread {}", tid.value));
}

Result<std::int64_t> Visit::syscall(std::string what, long number, std::initializer_list<std::uint64_t> arguments) {
  Program program;
  program.syscall(std::move(what), number, arguments);
  RELIVE_TRY(run(program));
  return program.result(0);
}

Result<void> Visit::record_undo(std::string what, long number, std::initializer_list<std::uint64_t> arguments) {
  wire::Program& undo_program = arena().control().undo;
  if (undo_program.count >= kUndoCapacity)
    return fail(ErrorKind::refused, "the undo log is full: too many steps for one rollback");
  Program one;
  one.syscall(std::move(what), number, arguments, Program::OnError::go_on);
  std::memcpy(state_->undo_operations.here + undo_program.count * sizeof(wire::Operation), one.operations().data(),
              sizeof(wire::Operation));
  state_->undo_names.push_back(one.what(0));
  ++undo_program.count;
  return {};
}

Result<void> Visit::undo() {
  wire::Program& log = arena().control().undo;
  std::vector<Tid> born;
  for (const task::FrozenThread& thread : task_->threads())
    if (thread.born_here) born.push_back(thread.tid);
  for (const Tid tid : born) {  // phase is prepare: it ends by itself (payload_leave)
    if (::ptrace(PTRACE_CONT, tid.value, nullptr, nullptr) == 0) RELIVE_TRY(task_->wait_gone(tid));
    state_->blocks.erase(tid);
  }
  if (log.count == 0) return {};
  Program backwards;
  for (std::size_t i = log.count; i > 0; --i) {
    wire::Operation operation{};
    std::memcpy(&operation, state_->undo_operations.here + (i - 1) * sizeof(wire::Operation), sizeof operation);
    backwards.add(state_->undo_names[i - 1], operation.kind, {}, Program::OnError::go_on);
    backwards.operations().back() = operation;
  }
  RELIVE_TRY(run(backwards));
  log.count = 0;
  state_->undo_names.clear();
  for (const RemoteFd own : own_descriptors()) {
    state_->numbers->own.erase(own.value);
    state_->numbers->open.erase(own.value);
  }
  state_->channel.reset();
  state_->remote_channel = -1;
  state_->handles.clear();
  return {};
}

void Visit::keep_clear(std::span<const AddressRange> ranges, std::span<const RemoteFd> descriptors) {
  state_->avoid.insert(state_->avoid.end(), ranges.begin(), ranges.end());
  for (const RemoteFd fd : descriptors) state_->numbers->taken.insert(fd.value);
}

void Visit::share_descriptors(const Visit& other) { state_->numbers = other.state_->numbers; }

Result<TaskAddress> Visit::spare_range(std::uint64_t bytes) {
  const std::uint64_t wanted = page_ceil(bytes);
  if (state_->spare_next + wanted > state_->spare_end || state_->spare_next == 0) {
    const std::string maps = RELIVE_TRY(task::read_proc(task_->pid(), "maps"));
    if (state_->spare_next != 0) state_->avoid.push_back({state_->spare_end - kLeastSpareSpace, state_->spare_end});
    std::uint64_t space = kSpareSpace;
    auto found = find_gap(maps, space, state_->avoid);
    while (!found && space > std::max(kLeastSpareSpace, wanted)) found = find_gap(maps, space /= 2, state_->avoid);
    state_->spare_next = RELIVE_TRY(std::move(found)).value;
    state_->spare_end = state_->spare_next + space;
    if (wanted > space)
      return fail(ErrorKind::refused, fmt::format("no gap of {} bytes in the task's address space", bytes));
  }
  const TaskAddress begin{state_->spare_next};
  state_->spare_next += wanted + kPageSize;  // a page between, so that neighbours do not merge
  return begin;
}

}  // namespace relive::parasite
