#include "parasite/remote_syscall.h"

#include <sys/ptrace.h>
#include <sys/wait.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <vector>

#include <fmt/format.h>

#include "base/fault.h"

namespace relive::parasite {

namespace {

constexpr std::uint64_t kLowest = 0x10000000;       // clear of the null page and of non-PIE programs' low end
constexpr std::uint64_t kHighest = 0x7ffffffff000;  // TASK_SIZE of 47-bit address spaces
constexpr std::uint64_t kMargin = std::uint64_t{16} << 20;

}  // namespace

bool next_line(std::string_view text, std::size_t& at, MapsLine& out) {
  if (at >= text.size()) return false;
  const std::size_t end = std::min(text.find('\n', at), text.size());
  out.line = text.substr(at, end - at);
  at = end + 1;
  const char* last = out.line.data() + out.line.size();
  const auto begin_parsed = std::from_chars(out.line.data(), last, out.range.begin, 16);
  if (begin_parsed.ptr == last) return false;
  const auto end_parsed = std::from_chars(begin_parsed.ptr + 1, last, out.range.end, 16);
  const auto offset = static_cast<std::size_t>(end_parsed.ptr - out.line.data());
  out.permissions = out.line.size() >= offset + 5 ? out.line.substr(offset + 1, 4) : std::string_view{};
  return true;
}

Result<std::int64_t> remote_syscall(task::FrozenTask& task, model::Tid tid, const user_regs_struct& base,
                                    model::TaskAddress instruction, long number,
                                    std::initializer_list<std::uint64_t> arguments, std::string_view fault) {
  std::uint64_t arg[6] = {};
  std::copy_n(arguments.begin(), std::min<std::size_t>(arguments.size(), 6), arg);
  user_regs_struct registers = base;
  registers.rip = instruction.value;
  registers.rax = static_cast<std::uint64_t>(number);
  registers.orig_rax = ~0ULL;
  registers.rdi = arg[0];
  registers.rsi = arg[1];
  registers.rdx = arg[2];
  registers.r10 = arg[3];
  registers.r8 = arg[4];
  registers.r9 = arg[5];
  RELIVE_TRY(task.set_registers(tid, registers));
  int stops = 0;
  Result<void> passed;
  while (stops < 2) {
    const int status = RELIVE_TRY(task.run_until_stop(tid, PTRACE_SYSCALL));
    if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {  // PTRACE_O_TRACESYSGOOD; other stops (job control) are passed over
      if (++stops == 1 && !fault.empty()) passed = fault_point(fault);
    } else if (status >> 16 == 0) {
      return fail(ErrorKind::system,
                  fmt::format("thread {} got signal {} in a system call of relive's", tid.value, WSTOPSIG(status)));
    }
  }
  RELIVE_TRY(std::move(passed));
  return static_cast<std::int64_t>(RELIVE_TRY(task.registers(tid)).rax);
}

Result<model::TaskAddress> find_gap(std::string_view maps_text, std::uint64_t bytes,
                                    std::span<const AddressRange> avoid) {
  std::vector<AddressRange> taken(avoid.begin(), avoid.end());
  std::size_t at = 0;
  for (MapsLine line; next_line(maps_text, at, line);) taken.push_back(line.range);
  std::ranges::sort(taken);
  AddressRange best;
  std::uint64_t free_from = kLowest;
  for (const AddressRange& range : taken) {
    const std::uint64_t free_to = std::min(range.begin, kHighest);
    if (free_to > free_from && free_to - free_from > best.size()) best = {free_from, free_to};
    free_from = std::max(free_from, range.end);
  }
  if (kHighest > free_from && kHighest - free_from > best.size()) best = {free_from, kHighest};
  if (best.size() < bytes + 2 * kMargin)
    return fail(ErrorKind::refused, fmt::format("no gap of {} bytes in the task's address space", bytes));
  return model::TaskAddress{page_floor(best.begin + best.size() / 2 - bytes / 2)};
}

}  // namespace relive::parasite
