#include "parasite/session.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include "parasite/remote_syscall.h"
#include "parasite/way_home.h"
#include "task/procfs.h"

extern "C" const std::byte relive_payload_begin[];
extern "C" const std::byte relive_payload_end[];

namespace relive::parasite {

namespace {

constexpr std::string_view kName = "relive-parasite";
constexpr std::uint64_t kReserve = wire::kCodeBytes + Arena::kBytes;
constexpr std::uint64_t kAllButFaults =
    ~((1ULL << (SIGSEGV - 1)) | (1ULL << (SIGBUS - 1)) | (1ULL << (SIGILL - 1)) | (1ULL << (SIGFPE - 1)));

// The first contact: system calls of a thread that has nothing of ours yet.
class Contact {
 public:
  Contact(task::FrozenTask& task, model::TaskAddress instruction, std::string_view maps)
      : task_(task), thread_(task.threads()[0]), base_(thread_.registers), instruction_(instruction) {
    const auto home = lay_way_home(task, thread_, maps);
    if (!home) return;
    base_.rsp = home->stack_pointer;
    instruction_ = home->instruction;
  }
  ~Contact() {
    if (undo_begin_ != 0) [[maybe_unused]]
      const auto ignored = call("munmap", SYS_munmap, {undo_begin_, kReserve});
    if (undo_fd_ >= 0) [[maybe_unused]]
      const auto ignored = call("close", SYS_close, {static_cast<std::uint64_t>(undo_fd_)});
    [[maybe_unused]] const auto a = task_.set_registers(thread_.tid, thread_.registers);
    [[maybe_unused]] const auto b = task_.set_signal_mask(thread_.tid, thread_.signal_mask);
  }
  Contact(const Contact&) = delete;
  Contact& operator=(const Contact&) = delete;

  Result<std::uint64_t> call(std::string_view name, long number, std::initializer_list<std::uint64_t> arguments) {
    const std::int64_t result = RELIVE_TRY(remote_syscall(task_, thread_.tid, base_, instruction_, number, arguments));
    if (result < 0)
      return fail_errno(name, fmt::format("inside task {}", task_.pid().value), static_cast<int>(-result));
    return static_cast<std::uint64_t>(result);
  }
  void undo_mapping(std::uint64_t begin) { undo_begin_ = begin; }
  void undo_descriptor(int fd) { undo_fd_ = fd; }
  void keep_mapping() { undo_begin_ = 0; }
  Result<void> block_signals() { return task_.set_signal_mask(thread_.tid, kAllButFaults | thread_.signal_mask); }

 private:
  task::FrozenTask& task_;
  task::FrozenThread thread_;
  user_regs_struct base_;  // of the calls
  model::TaskAddress instruction_;
  std::uint64_t undo_begin_ = 0;
  int undo_fd_ = -1;
};

// Descriptors that a keeper left in the task which was killed while it put the parasite in. Looked for only where such
// a death has left its mapping, too.
std::vector<int> left_behind(model::Pid pid, std::string_view maps_text) {
  bool trace = false;
  std::size_t at = 0;
  for (MapsLine line; !trace && next_line(maps_text, at, line);)
    trace = line.range.size() == kReserve || line.line.find(kName) != std::string_view::npos;
  std::vector<int> out;
  if (!trace) return out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid.value), error)) {
    const auto target = std::filesystem::read_symlink(entry.path(), error).string();
    if (!error && target == fmt::format("/memfd:{} (deleted)", kName))
      out.push_back(std::stoi(entry.path().filename()));
  }
  return out;
}

}  // namespace

Result<Session> Session::infect(task::FrozenTask& task) {
  const std::string maps = RELIVE_TRY(task::read_proc(task.pid(), "maps"));
  const model::TaskAddress instruction = RELIVE_TRY(find_syscall_instruction(task, maps));
  const model::TaskAddress base = RELIVE_TRY(find_gap(maps, kReserve, {}));
  Contact contact(task, instruction, maps);
  RELIVE_TRY(contact.block_signals());

  for (const int fd : left_behind(task.pid(), maps))
    RELIVE_TRY(contact.call("close", SYS_close, {static_cast<std::uint64_t>(fd)}));

  constexpr std::uint64_t kReadWrite = PROT_READ | PROT_WRITE;
  RELIVE_TRY(contact.call(
      "mmap", SYS_mmap,
      {base.value, kReserve, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, ~0ULL, 0}));
  contact.undo_mapping(base.value);
  RELIVE_TRY(task.write(base, std::as_bytes(std::span(kName))));  // what follows is zero
  auto created =
      contact.call("memfd_create", SYS_memfd_create, {base.value, MFD_CLOEXEC | 0x10U /* MFD_EXEC, Linux 6.3 */});
  if (!created) created = contact.call("memfd_create", SYS_memfd_create, {base.value, MFD_CLOEXEC});
  const auto fd = static_cast<int>(RELIVE_TRY(std::move(created)));
  contact.undo_descriptor(fd);
  UniqueFd memfd = RELIVE_TRY(task.borrow(model::RemoteFd{fd}));

  const auto code_size = static_cast<std::size_t>(relive_payload_end - relive_payload_begin);
  if (::ftruncate(memfd.get(), static_cast<off_t>(kReserve)) != 0)
    return fail_errno("ftruncate", "the parasite's memfd");
  if (::pwrite(memfd.get(), relive_payload_begin, code_size, 0) != static_cast<ssize_t>(code_size))
    return fail_errno("write", "the parasite's memfd");

  const auto remote_fd = static_cast<std::uint64_t>(fd);
  RELIVE_TRY(contact.call("mmap", SYS_mmap,
                          {base.value, wire::kCodeBytes, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, remote_fd, 0}));
  RELIVE_TRY(contact.call("mmap", SYS_mmap,
                          {base.value + wire::kCodeBytes, Arena::kBytes, kReadWrite,
                           MAP_SHARED | MAP_FIXED | MAP_NORESERVE, remote_fd, wire::kCodeBytes}));
  RELIVE_TRY(contact.call("madvise", SYS_madvise, {base.value, kReserve, MADV_DONTFORK}));
  RELIVE_TRY(contact.call("madvise", SYS_madvise, {base.value, kReserve, MADV_DONTDUMP}));

  void* here =
      ::mmap(nullptr, Arena::kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd.get(), wire::kCodeBytes);
  if (here == MAP_FAILED) return fail_errno("mmap", "the arena");
  Session session(Arena(std::move(memfd), static_cast<std::byte*>(here), base + wire::kCodeBytes));
  session.code_ = base;
  session.own_ranges_.push_back({base.value, base.value + kReserve});
  contact.keep_mapping();
  return session;
}

Result<void> Session::leave(task::FrozenTask& task) {
  const std::string maps = RELIVE_TRY(task::read_proc(task.pid(), "maps"));
  if (!present_in(maps)) return {};
  Contact contact(task, RELIVE_TRY(find_syscall_instruction(task, maps)), maps);
  RELIVE_TRY(contact.block_signals());
  RELIVE_TRY(contact.call("munmap", SYS_munmap, {code_.value, kReserve}));
  return {};
}

bool Session::present_in(std::string_view maps_text) const {
  const std::string line = fmt::format("{:08x}-{:08x} r-xs", code_.value, code_.value + wire::kCodeBytes);
  const auto at = maps_text.find(line);
  if (at == std::string_view::npos) return false;
  return maps_text.substr(at, maps_text.find('\n', at) - at).find(kName) != std::string_view::npos;
}

bool Session::owns(std::uint64_t address) const {
  return std::ranges::any_of(own_ranges_, [&](const AddressRange& range) { return range.contains(address); });
}

std::optional<int> Session::broken_off_call(const task::FrozenThread& thread) const {
  const auto found = broken_off_.find(thread.tid);
  if (found == broken_off_.end()) return std::nullopt;
  return static_cast<int>(found->second.orig_rax);
}

void Session::note_broken_off(task::FrozenTask& task) {
  constexpr std::int64_t kRestartBlock = -516;  // ERESTART_RESTARTBLOCK
  constexpr std::uint64_t kRestartSyscall = 219;
  const auto same_call = [](const user_regs_struct& a, const user_regs_struct& b) {
    return a.rip == b.rip && a.rsp == b.rsp && a.rdi == b.rdi && a.rsi == b.rsi && a.rdx == b.rdx && a.r10 == b.r10;
  };
  std::map<model::Tid, user_regs_struct> now;
  for (const task::FrozenThread& thread : task.threads()) {
    if (static_cast<std::int64_t>(thread.registers.rax) != kRestartBlock) continue;
    const auto known = broken_off_.find(thread.tid);
    if (thread.registers.orig_rax != kRestartSyscall)
      now.emplace(thread.tid, thread.registers);
    else if (known != broken_off_.end() && same_call(known->second, thread.registers))
      now.insert(*known);
  }
  broken_off_ = std::move(now);
}

}  // namespace relive::parasite
