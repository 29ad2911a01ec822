#include "capture/pending.h"

#include <fmt/format.h>
#include <sys/ptrace.h>

#include <algorithm>
#include <array>

namespace relive::capture {

Result<std::vector<model::QueuedSignal>> read_pending(model::Tid stopped_thread, QueueOf queue, std::uint64_t pending) {
  constexpr std::size_t kBatch = 64;
  const std::uint32_t flags = queue == QueueOf::task ? PTRACE_PEEKSIGINFO_SHARED : 0;
  std::vector<model::QueuedSignal> out;
  while (true) {
    std::array<model::QueuedSignal, kBatch> batch;
    __ptrace_peeksiginfo_args arguments{.off = out.size(), .flags = flags, .nr = kBatch};
    const long count = ::ptrace(PTRACE_PEEKSIGINFO, stopped_thread.value, &arguments, batch.data());
    if (count < 0) return fail_errno("ptrace PEEKSIGINFO", fmt::format("thread {}", stopped_thread.value));
    out.insert(out.end(), batch.begin(), batch.begin() + count);
    if (static_cast<std::size_t>(count) < kBatch) break;
  }
  for (std::size_t i = 0; i < model::kSignalCount; ++i) {
    const int number = static_cast<int>(i) + 1;
    if ((pending >> i & 1U) == 0 || std::ranges::find(out, number, &model::QueuedSignal::number) != out.end()) continue;
    out.emplace_back().info[0] = static_cast<std::byte>(number);
  }
  return out;
}

}  // namespace relive::capture
