#include <dirent.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/fault.h"
#include "parasite/descriptor_numbers.h"
#include "parasite/remote_syscall.h"
#include "parasite/session.h"
#include "task/procfs.h"

namespace relive::parasite {

namespace {

using model::Pid;
using model::RemoteFd;
using model::TaskAddress;
using model::Tid;

constexpr std::size_t kDriverStack = 32 << 10;
constexpr std::size_t kThreadStack = 8 << 10;
constexpr std::size_t kUndoCapacity = 8192;
constexpr int kIdTries = 200;  // to have an id again through ns_last_pid, while others fork as well
constexpr std::uint64_t kTrapFlag = 0x100, kDirectionFlag = 0x400;  // eflags
constexpr std::uint64_t kSpareSpace = std::uint64_t{1} << 44;       // address space for spare ranges: 16 TiB at most
constexpr std::uint64_t kLeastSpareSpace = std::uint64_t{1} << 30;

constexpr std::uint64_t bit_of(int signal) { return 1ULL << (signal - 1); }

// What is blocked while the parasite runs: everything but the faults it could cause (a blocked fault would reset the
// task's own action) and its breakpoint; what the thread had blocked stays so.
std::uint64_t parasite_mask(std::uint64_t own) {
  const std::uint64_t open = bit_of(SIGSEGV) | bit_of(SIGBUS) | bit_of(SIGILL) | bit_of(SIGFPE);
  return (~open | own) & ~bit_of(SIGTRAP);
}

user_regs_struct enter(const user_regs_struct& base, TaskAddress entry, TaskAddress control, TaskAddress block,
                       std::uint64_t stack_top) {
  user_regs_struct registers = base;
  registers.rip = entry.value;
  registers.rbx = control.value;
  registers.rbp = block.value;
  registers.rsp = stack_top;
  registers.rax = 0;
  registers.orig_rax = ~0ULL;  // no system call to restart
  registers.eflags &= ~(kTrapFlag | kDirectionFlag);
  return registers;
}

template <class Number>
Number number_or(std::string_view text, Number otherwise) {
  Number number{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  return code == std::errc{} ? number : otherwise;
}

}  // namespace

struct Visit::State {
  struct Block {
    ArenaPiece piece;
    std::uint64_t stack_top = 0;
    [[nodiscard]] wire::ThreadBlock& value() const { return *reinterpret_cast<wire::ThreadBlock*>(piece.here); }
  };

  TaskAddress code;
  std::map<Tid, Block> blocks;  // of the driver, of threads made here, and (from commit on) of all
  ArenaPiece undo_operations;
  std::vector<std::string> undo_names;
  bool trap_taken = false;
  bool committed = false;
  bool broken = false;
  bool departed = false;
  bool forking = false;

  std::vector<AddressRange> avoid;
  std::uint64_t spare_next = 0, spare_end = 0;

  std::shared_ptr<DescriptorNumbers> numbers = std::make_shared<DescriptorNumbers>();
  int descriptor_limit = 0;  // 0: not read yet

  UniqueFd channel;               // our end of the socket pair
  int remote_channel = -1;        // the task's end
  std::vector<RemoteFd> handles;  // in the task, of children that relive has made there
};

Visit::Visit(task::FrozenTask& task, Session& session)
    : task_(&task), session_(&session), state_(std::make_unique<State>()) {}

Visit::Visit(Visit&& other) noexcept
    : task_(std::exchange(other.task_, nullptr)),
      session_(other.session_),
      driver_(other.driver_),
      state_(std::move(other.state_)) {}

namespace {

Result<TaskAddress> original_frame(task::FrozenTask& task, Arena& arena, const task::FrozenThread& thread) {
  const std::vector<std::byte> xstate = RELIVE_TRY(task.xstate(thread.tid));
  return put_frame(
      arena, {.registers = reissue_system_call(thread.registers), .xstate = xstate, .signal_mask = thread.signal_mask});
}

void store_phase(wire::Control& control, wire::Phase phase) {
  __atomic_store_n(reinterpret_cast<std::uint32_t*>(&control.phase), static_cast<std::uint32_t>(phase),
                   __ATOMIC_RELEASE);
}

// Room for a thread's block and stack.
template <class Block>
Result<Block> make_block(Arena& arena, Tid tid, std::size_t stack_bytes, TaskAddress frame) {
  Block block;
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

// Copies results back; an operation that had to succeed and did not is an error that names it.
Result<void> take_results(Arena& arena, const wire::Program& ran, Program& program, std::string_view where) {
  if (!program.empty())
    std::memcpy(program.operations().data(), arena.local(TaskAddress{ran.operations}),
                program.size() * sizeof(wire::Operation));
  if (ran.failed < 0) return {};
  const auto index = static_cast<std::size_t>(ran.failed);
  return fail_errno(program.what(index), where, static_cast<int>(-program.result(index)));
}

}  // namespace

Result<Visit> Visit::begin(task::FrozenTask& task, Session& session) {
  Visit visit(task, session);
  Arena& arena = session.arena();
  arena.reset();
  session.note_broken_off(task);
  visit.state_->code = session.code_;
  visit.driver_ = task.threads()[0].tid;

  wire::Control& control = arena.control();
  control = {};
  control.phase = wire::Phase::prepare;
  control.undo.failed = control.commit.failed = -1;
  control.saved_trap_action[0] = wire::kNoTrapSaved;
  visit.state_->undo_operations = RELIVE_TRY(arena.take_used(kUndoCapacity * sizeof(wire::Operation)));
  control.undo.operations = visit.state_->undo_operations.there.value;

  const task::FrozenThread& driver = *task.find(visit.driver_);
  auto block = RELIVE_TRY(
      make_block<State::Block>(arena, visit.driver_, kDriverStack, RELIVE_TRY(original_frame(task, arena, driver))));
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
  const State::Block& block = state_->blocks.at(thread.tid);
  RELIVE_TRY(task_->set_registers(thread.tid, enter(thread.registers, state_->code + wire::kLeaveEntry,
                                                    arena().control_address(), block.piece.there, block.stack_top)));
  return task_->set_signal_mask(thread.tid, parasite_mask(thread.signal_mask));
}

Result<void> Visit::give_back(const task::FrozenThread& thread) {
  RELIVE_TRY(task_->set_signal_mask(thread.tid, thread.signal_mask));
  return task_->set_registers(thread.tid, thread.registers);
}

Result<std::int64_t> Visit::trap_call(std::uint64_t action, std::uint64_t old_action) {
  const State::Block& block = state_->blocks.at(driver_);
  const task::FrozenThread& driver = *task_->find(driver_);
  const user_regs_struct base =
      enter(driver.registers, state_->code, arena().control_address(), block.piece.there, block.stack_top);
  return remote_syscall(*task_, driver_, base, state_->code + wire::kSyscallEntry, SYS_rt_sigaction,
                        {SIGTRAP, action, old_action, 8});
}

Visit::~Visit() {
  if (task_ == nullptr || state_ == nullptr || state_->committed || !task_->frozen()) return;
  [[maybe_unused]] const auto undone = undo();
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
  const State::Block& block = state_->blocks.at(tid);
  const task::FrozenThread* thread = task_->find(tid);
  if (thread == nullptr) return fail(ErrorKind::task_died, fmt::format("thread {} is gone", tid.value));
  user_regs_struct registers = enter(thread->registers, state_->code + wire::kRunEntry, arena().control_address(),
                                     block.piece.there, block.stack_top);
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
    state_->blocks.emplace(tid, RELIVE_TRY(make_block<State::Block>(
                                    arena(), tid, kThreadStack, RELIVE_TRY(original_frame(*task_, arena(), thread)))));
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

Result<void> Visit::learn_descriptors() {
  DescriptorNumbers& numbers = *state_->numbers;
  if (!numbers.known) {
    const std::string path = fmt::format("/proc/{}/fd", task_->pid().value);
    DIR* directory = ::opendir(path.c_str());
    if (directory == nullptr) return fail_errno("opendir", path);
    while (const dirent* entry = ::readdir(directory)) {
      const int number = number_or<int>(entry->d_name, -1);
      if (number >= 0) numbers.open.insert(number);
    }
    ::closedir(directory);
    numbers.taken.insert(numbers.open.begin(), numbers.open.end());
    numbers.known = true;
  }
  if (state_->descriptor_limit != 0) return {};
  const std::string limits = RELIVE_TRY(task::read_proc(task_->pid(), "limits"));
  const std::string_view name = "Max open files";
  const auto line = limits.find(name);
  std::string_view rest =
      line == std::string::npos ? std::string_view{} : std::string_view(limits).substr(line + name.size());
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  state_->descriptor_limit = number_or<int>(rest, 1024);
  return {};
}

Result<RemoteFd> Visit::spare_descriptor() {
  RELIVE_TRY(learn_descriptors());
  std::set<int>& taken = state_->numbers->taken;
  // Behind the highest number in use, if the limit allows it; else the lowest that is free.
  int number = taken.empty() ? 0 : *taken.rbegin() + 1;
  // Two free numbers stay for what the kernel hands out by itself (give(), pipe2, ...).
  if (number >= state_->descriptor_limit) {
    number = 0;
    for (int left = 2; left > 0 || taken.contains(number); ++number)
      if (!taken.contains(number)) --left;
  }
  if (number >= state_->descriptor_limit)
    return fail(
        ErrorKind::refused,
        fmt::format("task {} has no descriptor number left (limit {})", task_->pid().value, state_->descriptor_limit),
        "raise RLIMIT_NOFILE of the task");
  taken.insert(number);
  return RemoteFd{number};
}

Result<std::vector<RemoteFd>> Visit::next_descriptors(std::size_t count) {
  RELIVE_TRY(learn_descriptors());
  std::vector<RemoteFd> next;
  for (int number = 0; next.size() < count; ++number) {
    if (!state_->numbers->open.contains(number)) next.push_back(RemoteFd{number});
  }
  return next;
}

void Visit::note_open(RemoteFd fd) { state_->numbers->open.insert(fd.value); }

void Visit::note_closed(RemoteFd fd) { state_->numbers->open.erase(fd.value); }

void Visit::note_own(RemoteFd fd) {
  note_open(fd);
  state_->numbers->own.insert(fd.value);
}

bool Visit::is_own_descriptor(RemoteFd fd) const { return state_->numbers->own.contains(fd.value); }

std::vector<RemoteFd> Visit::own_descriptors() const {
  std::vector<RemoteFd> own = state_->handles;
  if (state_->remote_channel >= 0) own.push_back(RemoteFd{state_->remote_channel});
  return own;
}

Result<void> Visit::open_channel() {
  if (state_->channel) return {};
  const RemoteFd spare = RELIVE_TRY(spare_descriptor());
  const ArenaPiece pair = RELIVE_TRY(arena().take(2 * sizeof(int)));
  RELIVE_TRY(record_undo("close the channel", SYS_close, {static_cast<std::uint64_t>(spare.value)}));
  // Until it is moved away it has the two lowest free numbers, and the keeper may die meanwhile.
  for (const RemoteFd end : RELIVE_TRY(next_descriptors(2)))
    RELIVE_TRY(record_undo("close an end of the channel", SYS_close, {static_cast<std::uint64_t>(end.value)}));
  RELIVE_TRY(syscall("socketpair for passing descriptors", SYS_socketpair,
                     {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair.there.value}));
  int ends[2];
  std::memcpy(ends, pair.here, sizeof ends);
  auto borrowed = task_->borrow(RemoteFd{ends[1]});
  Program settle;
  const auto high = static_cast<std::uint64_t>(ends[1]);
  const auto low = static_cast<std::uint64_t>(ends[0]);
  settle.syscall("close the far end", SYS_close, {high});
  if (ends[0] != spare.value) {
    settle.syscall("move the channel away", SYS_dup3, {low, static_cast<std::uint64_t>(spare.value), O_CLOEXEC});
    settle.syscall("close the near end", SYS_close, {low});
  }
  RELIVE_TRY(run(settle));
  state_->channel = RELIVE_TRY(std::move(borrowed));
  state_->remote_channel = spare.value;
  note_own(spare);
  return {};
}

Result<void> Visit::give(int fd, RemoteFd as) {
  RELIVE_TRY(learn_descriptors());
  RELIVE_TRY(open_channel());

  char byte = 0;
  iovec vector{.iov_base = &byte, .iov_len = 1};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = room;
  message.msg_controllen = sizeof room;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (::sendmsg(state_->channel.get(), &message, MSG_NOSIGNAL) != 1)
    return fail_errno("sendmsg", "a descriptor to the task");

  const ArenaPiece remote_room = RELIVE_TRY(arena().take(sizeof room));
  const ArenaPiece remote_byte = RELIVE_TRY(arena().take(8));
  const iovec remote_vector{.iov_base = reinterpret_cast<void*>(remote_byte.there.value), .iov_len = 1};
  msghdr remote_message{};
  remote_message.msg_iov = reinterpret_cast<iovec*>(RELIVE_TRY(arena().put_value(remote_vector)).value);
  remote_message.msg_iovlen = 1;
  remote_message.msg_control = reinterpret_cast<void*>(remote_room.there.value);
  remote_message.msg_controllen = sizeof room;
  const TaskAddress message_address = RELIVE_TRY(arena().put_value(remote_message));

  // The kernel takes the lowest free number; it is known, so that one program can receive and move.
  int lowest = 0;
  while (state_->numbers->open.contains(lowest)) ++lowest;
  const auto from = static_cast<std::uint64_t>(lowest);
  Program receive;
  receive.syscall(
      "receive a descriptor", SYS_recvmsg,
      {static_cast<std::uint64_t>(state_->remote_channel), message_address.value, MSG_CMSG_CLOEXEC | MSG_DONTWAIT});
  if (lowest != as.value) {
    receive.syscall(fmt::format("dup3 {} -> {}", lowest, as.value), SYS_dup3,
                    {from, static_cast<std::uint64_t>(as.value), O_CLOEXEC});
    receive.syscall(fmt::format("close {}", lowest), SYS_close, {from});
  }
  RELIVE_TRY(run(receive));
  note_open(as);
  return {};
}

namespace {

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
  const auto block = RELIVE_TRY(make_block<State::Block>(arena(), tid, kThreadStack, TaskAddress{0}));
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

Result<void> Visit::stage(Program& program, std::vector<ThreadGoal>& goals) {
  wire::Control& control = arena().control();
  for (const ThreadGoal& goal : goals) {
    const task::FrozenThread* thread = task_->find(goal.tid);
    if (thread == nullptr) return fail(ErrorKind::system, fmt::format("no thread {} to commit", goal.tid.value));
    if (!state_->blocks.contains(goal.tid))
      state_->blocks.emplace(
          goal.tid, RELIVE_TRY(make_block<State::Block>(arena(), goal.tid, kThreadStack,
                                                        RELIVE_TRY(original_frame(*task_, arena(), *thread)))));
    wire::ThreadBlock& block = state_->blocks.at(goal.tid).value();
    block.wanted_frame = goal.surplus ? 0 : RELIVE_TRY(put_frame(arena(), goal.wanted)).value;
    RELIVE_TRY(put_program(arena(), goal.program, block.program));
  }
  if (goals.size() != task_->threads().size()) return fail(ErrorKind::system, "a thread without a goal");
  for (const RemoteFd own : own_descriptors())
    program.syscall(fmt::format("close {} of relive's", own.value), SYS_close, {static_cast<std::uint64_t>(own.value)},
                    Program::OnError::go_on);
  control.agreement = session_->takes_part() ? session_->agreement_address().value : 0;
  RELIVE_TRY(put_program(arena(), program, control.commit));
  std::vector<std::uint64_t> surplus;
  for (const ThreadGoal& goal : goals)
    if (goal.surplus && goal.tid != driver_) surplus.push_back(state_->blocks.at(goal.tid).piece.there.value);
  control.surplus = RELIVE_TRY(arena().put(std::as_bytes(std::span(surplus)))).value;
  control.surplus_count = surplus.size();
  RELIVE_TRY(fault_point("commit: park threads"));
  for (const task::FrozenThread& thread : task_->threads()) {
    if (thread.tid == driver_ || thread.born_here) continue;  // these stand in the parasite already
    if (auto parked = park(thread); !parked) {
      unstage();
      return parked;
    }
  }
  if (control.agreement != 0) store_phase(control, wire::Phase::agreed);
  return {};
}

void Visit::unstage() {
  store_phase(arena().control(), wire::Phase::prepare);
  for (const task::FrozenThread& thread : task_->threads()) {
    if (thread.tid == driver_ || thread.born_here) continue;
    [[maybe_unused]] const auto given = give_back(thread);
  }
}

Result<void> Visit::carry_out(Program& program, std::vector<ThreadGoal>& goals) {
  wire::Control& control = arena().control();
  store_phase(control, wire::Phase::commit);
  state_->committed = true;
  [[maybe_unused]] const auto counted = fault_point("commit: decided");
  for (const ThreadGoal& goal : goals) {
    if (!goal.surplus) continue;
    control_end(goal.tid);
  }
  [[maybe_unused]] const auto counted_again = fault_point("commit: surplus threads ended");
  const TaskAddress commit_address = arena().control_address() + offsetof(wire::Control, commit);
  auto outcome = run_at(driver_, commit_address, control.commit);
  if (outcome)
    outcome = take_results(arena(), control.commit, program, fmt::format("inside task {}", task_->pid().value));
  if (!outcome) {
    break_off();
    return outcome;
  }
  [[maybe_unused]] const auto counted_last = fault_point("commit: carried out");
  return {};
}

void Visit::break_off() {
  state_->committed = true;
  state_->broken = true;
  store_phase(arena().control(), wire::Phase::broken);
}

Result<void> Visit::commit(Program& program, std::vector<ThreadGoal>& goals) {
  RELIVE_TRY(stage(program, goals));
  if (const auto last = fault_point("commit: point of no return"); !last) {
    unstage();
    return last;
  }
  return carry_out(program, goals);
}

Result<void> Visit::park(const task::FrozenThread& thread) {
  const State::Block& block = state_->blocks.at(thread.tid);
  RELIVE_TRY(task_->set_registers(thread.tid, enter(thread.registers, state_->code + wire::kLeaveEntry,
                                                    arena().control_address(), block.piece.there, block.stack_top)));
  return task_->set_signal_mask(thread.tid, ~0ULL);
}

// Lets a surplus thread end and waits until its id is free. phase is commit: it waits for `done` unless told otherwise.
void Visit::control_end(Tid tid) {
  State::Block& block = state_->blocks.at(tid);
  Program end;
  end.syscall("set_tid_address 0", SYS_set_tid_address, {0}, Program::OnError::go_on);
  end.syscall("set_robust_list 0", SYS_set_robust_list, {0, 24}, Program::OnError::go_on);
  // Whoever finishes the commit, should the keeper die now, is to know that this one needs no waiting for.
  constexpr std::uint32_t kGone = 1;
  const auto gone_value = arena().put_value(kGone);
  if (!gone_value) return;
  end.add("gone", wire::Kind::save_bytes,
          {block.piece.there.value + offsetof(wire::ThreadBlock, gone), gone_value->value, sizeof kGone});
  end.syscall("exit", SYS_exit, {0}, Program::OnError::go_on);
  const auto piece = arena().take(sizeof(wire::Program));
  if (!piece || !put_program(arena(), end, *reinterpret_cast<wire::Program*>(piece->here))) return;
  const task::FrozenThread* thread = task_->find(tid);
  if (thread == nullptr) return;
  user_regs_struct registers = enter(thread->registers, state_->code + wire::kRunEntry, arena().control_address(),
                                     block.piece.there, block.stack_top);
  registers.rdi = piece->there.value;
  if (!task_->set_registers(tid, registers)) return;
  if (::ptrace(PTRACE_CONT, tid.value, nullptr, nullptr) == 0) [[maybe_unused]]
    const auto gone = task_->wait_gone(tid);
}

// Lets a thread of a task that job control has stopped go to its frame under our hand: detached, it stays stopped
// there.
Result<void> Visit::run_to_goal(Tid tid) {
  constexpr std::uint64_t kSigreturn = 15;
  for (;;) {
    const int status = RELIVE_TRY(task_->run_until_stop(tid, PTRACE_SYSCALL));
    if (WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
    if (RELIVE_TRY(task_->registers(tid)).orig_rax == kSigreturn) break;
  }
  while (WSTOPSIG(RELIVE_TRY(task_->run_until_stop(tid, PTRACE_SYSCALL))) != (SIGTRAP | 0x80)) {
  }
  return {};
}

bool Visit::committed() const { return state_->committed; }
bool Visit::broken() const { return state_->broken; }

Result<void> Visit::depart() {
  if (!state_->committed || state_->departed) return {};
  state_->departed = true;
  wire::Control& control = arena().control();
  if (state_->broken) {
    ::kill(task_->pid().value, SIGSTOP);
    task_->resume();
    return {};
  }
  store_phase(control, wire::Phase::done);
  std::vector<const State::Block*> waiting;
  for (const task::FrozenThread& thread : task_->threads()) waiting.push_back(&state_->blocks.at(thread.tid));
  for (const task::FrozenThread& thread : std::vector(task_->threads().begin(), task_->threads().end()))
    if (thread.job_stopped) RELIVE_TRY(run_to_goal(thread.tid));
  task_->resume();
  const auto all_gone = [&] {
    return std::ranges::all_of(waiting, [](const State::Block* block) {
      return __atomic_load_n(&block->value().gone, __ATOMIC_ACQUIRE) != 0;
    });
  };
  const std::uint64_t deadline = now_ns() + 2'000'000'000;
  for (unsigned tries = 0; !all_gone(); ++tries) {
    if (now_ns() > deadline) break;  // starved: it goes when it runs
    if (tries < 200)
      ::sched_yield();
    else {
      const timespec pause{.tv_sec = 0, .tv_nsec = 100'000};
      ::nanosleep(&pause, nullptr);
      const auto state = task::read_proc(task_->pid(), "status");
      if (!state && all_gone()) break;  // it went its way, and that was to its end
      if (!state) return fail(ErrorKind::task_died, fmt::format("task {} ended as it was let go", task_->pid().value));
      for (const State::Block* block : waiting) {
        if (block->value().program.failed < 0) continue;
        state_->broken = true;
        return fail(ErrorKind::system, fmt::format("thread {} could not take its last step (operation {})",
                                                   block->value().tid, block->value().program.failed));
      }
      if (task::status_field(*state, "State").starts_with("T")) break;
    }
  }
  return {};
}

}  // namespace relive::parasite
