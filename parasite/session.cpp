#include "parasite/session.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/fault.h"
#include "parasite/remains.h"
#include "parasite/remote_syscall.h"
#include "parasite/way_home.h"
#include "task/procfs.h"

extern "C" const std::byte relive_payload_begin[];
extern "C" const std::byte relive_payload_end[];

namespace relive::parasite {

namespace {

constexpr std::uint64_t kReserve = wire::kCodeBytes + Arena::kBytes + wire::kAgreementBytes;
constexpr std::uint64_t kSyscallBytes = 2;
constexpr std::uint64_t kAllButFaults =
    ~((1ULL << (SIGSEGV - 1)) | (1ULL << (SIGBUS - 1)) | (1ULL << (SIGILL - 1)) | (1ULL << (SIGFPE - 1)));

// The first contact: system calls of a thread that has nothing of ours yet.
class Contact {
 public:
  // `word`: a text that the calls may point at.
  static Result<Contact> make(task::FrozenTask& task, std::string_view maps, std::string_view word) {
    const task::FrozenThread thread = task.threads()[0];
    const WayHome home = RELIVE_TRY(lay_way_home(task, thread, maps, word));
    RELIVE_TRY(fault_point("lay the way home"));
    Contact contact(task, thread, home);
    // On the way home first: should we be killed, it gives the signal mask back, too.
    user_regs_struct homewards = contact.base_;
    homewards.rip = home.instruction.value + kSyscallBytes;
    homewards.orig_rax = ~0ULL;
    RELIVE_TRY(task.set_registers(thread.tid, homewards));
    RELIVE_TRY(fault_point("set out on the way home"));
    RELIVE_TRY(task.set_signal_mask(thread.tid, kAllButFaults | thread.signal_mask));
    return contact;
  }
  Contact(Contact&& other) noexcept
      : task_(std::exchange(other.task_, nullptr)),
        thread_(other.thread_),
        home_(other.home_),
        base_(other.base_),
        undo_(other.undo_) {}
  Contact& operator=(Contact&&) = delete;
  ~Contact() {
    if (task_ == nullptr) return;
    undo();
    [[maybe_unused]] const auto a = task_->set_signal_mask(thread_.tid, thread_.signal_mask);
    [[maybe_unused]] const auto passed = fault_point("give the registers back");
    [[maybe_unused]] const auto b = task_->set_registers(thread_.tid, thread_.registers);
  }

  Result<std::uint64_t> call(std::string_view name, long number, std::initializer_list<std::uint64_t> arguments) {
    RELIVE_TRY(fault_point(name));
    const std::int64_t result = RELIVE_TRY(remote_syscall(*task_, thread_.tid, base_, home_.instruction, number,
                                                          arguments, fmt::format("inside {}", name)));
    if (result < 0)
      return fail_errno(name, fmt::format("inside task {}", task_->pid().value), static_cast<int>(-result));
    return static_cast<std::uint64_t>(result);
  }
  [[nodiscard]] std::uint64_t word() const { return home_.word.value; }

  Result<void> take_out(const Remains& remains) {
    for (const int fd : remains.descriptors) RELIVE_TRY(call("close", SYS_close, {static_cast<std::uint64_t>(fd)}));
    for (const AddressRange& range : remains.mappings)
      RELIVE_TRY(call("munmap", SYS_munmap, {range.begin, range.size()}));
    return {};
  }
  // From here on a failure takes out what there is of ours then.
  void undo_on_failure() { undo_ = true; }
  void keep() { undo_ = false; }

 private:
  Contact(task::FrozenTask& task, const task::FrozenThread& thread, const WayHome& home)
      : task_(&task), thread_(thread), home_(home), base_(thread.registers) {
    base_.rsp = home.stack_pointer;
  }
  void undo() {
    if (!std::exchange(undo_, false)) return;
    const auto maps = task::read_proc(task_->pid(), "maps");
    if (!maps) return;
    if (const auto remains = find_remains(*task_, *maps)) [[maybe_unused]]
      const auto ignored = take_out(*remains);
  }

  task::FrozenTask* task_;
  task::FrozenThread thread_;
  WayHome home_;
  user_regs_struct base_;  // of the calls
  bool undo_ = false;
};

// In our hands: the parasite's memory file, which is open in the task as `number`.
Result<UniqueFd> fill_file(const task::FrozenTask& task, std::uint64_t number) {
  constexpr std::string_view kWhat = "the parasite's memfd";
  UniqueFd memfd = RELIVE_TRY(task.borrow(model::RemoteFd{static_cast<int>(number)}));
  if (::ftruncate(memfd.get(), static_cast<off_t>(kReserve)) != 0) return fail_errno("ftruncate", kWhat);
  const auto code_size = static_cast<std::size_t>(relive_payload_end - relive_payload_begin);
  if (::pwrite(memfd.get(), relive_payload_begin, code_size, 0) != static_cast<ssize_t>(code_size))
    return fail_errno("write", kWhat);
  const wire::Owner owner = RELIVE_TRY(ourselves());
  if (::pwrite(memfd.get(), &owner, sizeof owner, wire::kCodeBytes + wire::kOwnerOffset) !=
      static_cast<ssize_t>(sizeof owner))
    return fail_errno("write", kWhat);
  return memfd;
}

}  // namespace

Result<Session> Session::infect(task::FrozenTask& task, std::span<const AddressRange> avoid) {
  const std::string maps = RELIVE_TRY(task::read_proc(task.pid(), "maps"));
  const Remains remains = RELIVE_TRY(find_remains(task, maps));
  const model::TaskAddress base = RELIVE_TRY(find_gap(maps, kReserve, avoid));
  Contact contact = RELIVE_TRY(Contact::make(task, maps, kParasiteName));
  RELIVE_TRY(contact.take_out(remains));

  contact.undo_on_failure();
  constexpr std::uint64_t kExecutable = 0x10;  // MFD_EXEC, Linux 6.3
  auto created = contact.call("memfd_create", SYS_memfd_create, {contact.word(), MFD_CLOEXEC | kExecutable});
  if (!created && created.error().errno_value == EINVAL)
    created = contact.call("memfd_create", SYS_memfd_create, {contact.word(), MFD_CLOEXEC});
  const std::uint64_t number = RELIVE_TRY(std::move(created));
  UniqueFd memfd = RELIVE_TRY(fill_file(task, number));
  constexpr std::uint64_t kShared = MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_NORESERVE;
  RELIVE_TRY(contact.call("mmap", SYS_mmap, {base.value, wire::kCodeBytes, PROT_READ | PROT_EXEC, kShared, number, 0}));
  RELIVE_TRY(contact.call("mmap", SYS_mmap,
                          {base.value + wire::kCodeBytes, kReserve - wire::kCodeBytes, PROT_READ | PROT_WRITE, kShared,
                           number, wire::kCodeBytes}));
  RELIVE_TRY(contact.call("close", SYS_close, {number}));
  RELIVE_TRY(contact.call("madvise", SYS_madvise, {base.value, kReserve, MADV_DONTFORK}));
  RELIVE_TRY(contact.call("madvise", SYS_madvise, {base.value, kReserve, MADV_DONTDUMP}));

  struct stat seen{};
  if (::fstat(memfd.get(), &seen) != 0) return fail_errno("fstat", "the parasite's memfd");
  void* here =
      ::mmap(nullptr, Arena::kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd.get(), wire::kCodeBytes);
  if (here == MAP_FAILED) return fail_errno("mmap", "the arena");
  Session session(Arena(std::move(memfd), static_cast<std::byte*>(here), base + wire::kCodeBytes));
  session.code_ = base;
  session.inode_ = seen.st_ino;
  session.own_ranges_.push_back({base.value, base.value + kReserve});
  contact.keep();
  return session;
}

Result<void> Session::leave(task::FrozenTask& task) {
  const std::string maps = RELIVE_TRY(task::read_proc(task.pid(), "maps"));
  if (!present_in(maps)) return {};
  Contact contact = RELIVE_TRY(Contact::make(task, maps, {}));
  RELIVE_TRY(contact.call("munmap", SYS_munmap, {code_.value, kReserve}));
  return {};
}

model::TaskAddress Session::agreement_address() const { return code_ + (kReserve - wire::kAgreementBytes); }

bool Session::present_in(std::string_view maps_text) const {
  const std::string line = fmt::format("{:08x}-{:08x} r-xs", code_.value, code_.value + wire::kCodeBytes);
  const auto at = maps_text.find(line);
  if (at == std::string_view::npos) return false;
  const std::string_view rest = maps_text.substr(at, maps_text.find('\n', at) - at);
  return rest.find(kParasiteName) != std::string_view::npos &&
         rest.find(fmt::format(" {} ", inode_)) != std::string_view::npos;
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
