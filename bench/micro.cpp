// The parts of a rollback that need no process, measured alone.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bench/scattered.h"
#include "capture/memory.h"
#include "diff/memory.h"
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

// A maps text of COUNT mappings, as a large program has them.
std::string maps_text(std::int64_t count) {
  std::string text;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t begin = kBase + static_cast<std::uint64_t>(i) * 16 * kPageSize;
    const std::string_view rest =
        i % 3 == 0 ? "r-xp 00001000 08:01 393449                     /usr/lib/x86_64-linux-gnu/libc.so.6"
                   : "rw-p 00000000 00:00 0 ";
    text += fmt::format("{:x}-{:x} {}\n", begin, begin + 8 * kPageSize, rest);
  }
  return text;
}

void parse_maps(benchmark::State& state) {
  const auto text = maps_text(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(capture::parse_maps(text));
}
BENCHMARK(parse_maps)->Arg(100)->Arg(1000)->Unit(benchmark::kMicrosecond);

// Every tenth of COUNT mappings is gone since the snapshot.
void plan_memory(benchmark::State& state) {
  model::Memory wanted;
  wanted.mappings = capture::parse_maps(maps_text(state.range(0))).value();
  model::Memory living = wanted;
  std::erase_if(living.mappings,
                [](const model::Mapping& mapping) { return mapping.range.begin / kPageSize / 16 % 10 == 0; });
  for (auto _ : state) benchmark::DoNotOptimize(diff::plan_memory(wanted, living));
}
BENCHMARK(plan_memory)->Arg(100)->Arg(1000)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace relive::bench

BENCHMARK_MAIN();
