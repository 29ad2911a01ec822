#include "parasite/stranded.h"

#include <fmt/format.h>
#include <sys/uio.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <string>
#include <string_view>

#include "parasite/remains.h"
#include "parasite/wire.h"
#include "task/procfs.h"

namespace relive::parasite {

namespace {

constexpr int kTries = 5000;
constexpr long kPauseNs = 1'000'000;

template <class Value>
Result<Value> read_at(model::Pid pid, std::uint64_t address) {
  Value value{};
  const iovec here{.iov_base = &value, .iov_len = sizeof value};
  const iovec there{.iov_base = reinterpret_cast<void*>(address), .iov_len = sizeof value};  // NOLINT(*-int-to-ptr)
  if (::process_vm_readv(pid.value, &here, 1, &there, 1, 0) != static_cast<ssize_t>(sizeof value))
    return fail_errno("process_vm_readv", fmt::format("task {}", pid.value));
  return value;
}

// It lies right behind the arena, whose first page says so.
Result<std::optional<std::uint64_t>> find_agreement(model::Pid pid) {
  const std::string maps = RELIVE_TRY(task::read_proc(pid, "maps"));
  std::uint64_t arena = 0;
  std::uint64_t arena_end = 0;
  for (std::size_t at = 0; at < maps.size();) {
    const std::size_t end = std::min(maps.find('\n', at), maps.size());
    const std::string line = maps.substr(at, end - at);
    at = end + 1;
    if (line.find(kParasiteName) == std::string::npos) continue;
    std::uint64_t from = 0;
    std::uint64_t to = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &from, &to) != 2) continue;  // NOLINT(cert-err34-c)
    if (from == arena_end && to - from == wire::kAgreementBytes &&
        RELIVE_TRY(read_at<wire::Control>(pid, arena)).agreement == from)
      return from;
    arena = from;
    arena_end = to;
  }
  return std::nullopt;
}

}  // namespace

Result<std::optional<model::TaskAddress>> waits_for_others(model::Pid pid) {
  const auto address = RELIVE_TRY(find_agreement(pid));
  if (!address) return std::nullopt;
  const timespec pause{.tv_sec = 0, .tv_nsec = kPauseNs};
  for (int tries = 0; tries < kTries; ++tries) {
    const auto agreement = RELIVE_TRY(read_at<wire::Agreement>(pid, *address));
    if (agreement.decided == 0 || agreement.broken != 0 || agreement.remaining == 0) return std::nullopt;
    if (agreement.remaining == 1) return model::TaskAddress{*address};
    ::nanosleep(&pause, nullptr);
  }
  return fail(ErrorKind::busy, fmt::format("the tasks of {} are still on their way to their snapshot", pid.value),
              "try again");
}

Result<void> let_go(model::Pid pid, model::TaskAddress agreement) {
  std::uint32_t none = 0;
  const iovec here{.iov_base = &none, .iov_len = sizeof none};
  const std::uint64_t address = agreement.value + offsetof(wire::Agreement, remaining);
  const iovec there{.iov_base = reinterpret_cast<void*>(address), .iov_len = sizeof none};  // NOLINT(*-int-to-ptr)
  if (::process_vm_writev(pid.value, &here, 1, &there, 1, 0) != static_cast<ssize_t>(sizeof none))
    return fail_errno("process_vm_writev", fmt::format("task {}", pid.value));
  return {};
}

}  // namespace relive::parasite
