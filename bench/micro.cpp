// The parts of a rollback that need no process, measured alone.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "bench/scattered.h"
#include "tracking/page_map.h"

namespace relive::bench {
namespace {

constexpr std::uint64_t kBase = 0x7f0000000000;
constexpr std::uint64_t kPages = 262144;  // 1 GiB

tracking::Ranges dirty_ranges(std::int64_t count) {
  auto pages = scattered(kPages, static_cast<std::uint64_t>(count), 1);
  std::ranges::sort(pages);
  tracking::Ranges ranges;
  for (const auto page : pages) ranges.push_back({kBase + page * kPageSize, kBase + (page + 1) * kPageSize});
  return ranges;
}

// 1 GiB in one run, COUNT scattered pages written since.
void plan_pages(benchmark::State& state) {
  tracking::PageMap wanted;
  const AddressRange all{kBase, kBase + kPages * kPageSize};
  const tracking::PageRun run{.address = kBase, .pages = kPages, .slot = 0};
  wanted.replace(all, {&run, 1});
  const auto changed = dirty_ranges(state.range(0));
  const tracking::Ranges kept{all};
  for (auto _ : state) benchmark::DoNotOptimize(tracking::plan_pages(wanted, wanted, changed, kept, {}));
}
BENCHMARK(plan_pages)->Arg(0)->Arg(1000)->Arg(10000)->Unit(benchmark::kMicrosecond);

// The map of a snapshot taken after COUNT scattered pages were written: what a second snapshot costs in the keeper.
void replace_scattered(benchmark::State& state) {
  tracking::PageMap first;
  const AddressRange all{kBase, kBase + kPages * kPageSize};
  const tracking::PageRun run{.address = kBase, .pages = kPages, .slot = 0};
  first.replace(all, {&run, 1});
  const auto changed = dirty_ranges(state.range(0));
  std::vector<tracking::PageRun> saved;
  for (const auto& range : changed)
    saved.push_back({.address = range.begin, .pages = 1, .slot = kPages + saved.size()});
  for (auto _ : state) {
    auto map = first;
    map.replace(changed, saved);
    benchmark::DoNotOptimize(map);
  }
}
BENCHMARK(replace_scattered)->Arg(1000)->Arg(10000)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace relive::bench

BENCHMARK_MAIN();
