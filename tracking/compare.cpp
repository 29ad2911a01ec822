#include "tracking/compare.h"

#include <algorithm>
#include <cstring>

#include "tracking/populated.h"

namespace relive::tracking {

namespace {

constexpr std::size_t kRunsAtOnce = 16384;
constexpr std::uint64_t kPagesAtOnce = std::uint64_t{1} << 20;
constexpr std::uint64_t kBitmapBytes = kPagesAtOnce / 8;
constexpr Slot kZeros = ~Slot{0};  // stands for a page of zeros

// Can the parasite read it with the task's own rights?
bool readable_inside(const model::Mapping& mapping) {
  return (mapping.readable || mapping.writable) && mapping.protection_key == 0;
}

struct Pair {
  std::uint64_t living = 0;
  Slot slot = 0;
  std::uint64_t pages = 0;
};

// Comparisons on the driver thread, many runs in one call.
class InsideComparison {
 public:
  static Result<InsideComparison> begin(parasite::Visit& visit, std::size_t runs) {
    auto list = RELIVE_TRY(visit.arena().take(std::min(runs, kRunsAtOnce) * sizeof(wire::CompareRun)));
    auto bitmap = RELIVE_TRY(visit.arena().take(kBitmapBytes));
    return InsideComparison(visit, list, bitmap);
  }

  Result<std::vector<AddressRange>> differing(std::span<const Pair> pairs, const PageStore& store) {
    std::vector<AddressRange> out;
    std::vector<wire::CompareRun> batch;
    std::uint64_t pages = 0;
    for (Pair pair : pairs) {
      while (pair.pages > 0) {
        const std::uint64_t part = std::min(pair.pages, kPagesAtOnce - pages);
        batch.push_back({.living = pair.living,
                         .stored = pair.slot == kZeros ? 0 : store.address_in_task(pair.slot).value,
                         .pages = part});
        pages += part;
        pair.living += part * kPageSize;
        if (pair.slot != kZeros) pair.slot += part;
        pair.pages -= part;
        if (batch.size() < kRunsAtOnce && pages < kPagesAtOnce) continue;
        RELIVE_TRY(run(batch, pages, out));
        batch.clear();
        pages = 0;
      }
    }
    if (!batch.empty()) RELIVE_TRY(run(batch, pages, out));
    return out;
  }

 private:
  InsideComparison(parasite::Visit& visit, parasite::ArenaPiece list, parasite::ArenaPiece bitmap)
      : visit_(visit), list_(list), bitmap_(bitmap) {}

  Result<void> run(std::span<const wire::CompareRun> batch, std::uint64_t pages, std::vector<AddressRange>& out) {
    std::memcpy(list_.here, batch.data(), batch.size_bytes());
    std::memset(bitmap_.here, 0, (pages + 7) / 8);
    parasite::Program program;
    program.add("compare pages with the store", wire::Kind::compare_runs,
                {list_.there.value, batch.size(), bitmap_.there.value});
    RELIVE_TRY(visit_.run(program));
    std::uint64_t bit = 0;
    for (const wire::CompareRun& run : batch) {
      for (std::uint64_t page = 0; page < run.pages; ++page, ++bit) {
        if ((std::to_integer<unsigned>(bitmap_.here[bit / 8]) >> (bit % 8) & 1U) == 0) continue;
        const std::uint64_t address = run.living + page * kPageSize;
        out.push_back({address, address + kPageSize});
      }
    }
    return {};
  }

  parasite::Visit& visit_;
  parasite::ArenaPiece list_;
  parasite::ArenaPiece bitmap_;
};

Result<std::vector<AddressRange>> differing_outside(const task::FrozenTask& task, std::span<const Pair> pairs,
                                                    const PageStore& store) {
  static const std::vector<std::byte> zeros(kPageSize);
  std::vector<AddressRange> out;
  std::vector<std::byte> page(kPageSize);
  for (const Pair& pair : pairs) {
    for (std::uint64_t i = 0; i < pair.pages; ++i) {
      const std::uint64_t address = pair.living + i * kPageSize;
      RELIVE_TRY(task.read({address}, page));
      const std::byte* stored = pair.slot == kZeros ? zeros.data() : store.bytes(pair.slot + i).data();
      if (std::memcmp(page.data(), stored, kPageSize) != 0) out.push_back({address, address + kPageSize});
    }
  }
  return out;
}

// What is to be compared with what, inside `where`.
std::vector<Pair> pairs_in(const Ranges& where, const Ranges& zeros, const PageMap& current) {
  std::vector<Pair> out;
  for (const PageRun& run : current.within(where)) out.push_back({run.address, run.slot, run.pages});
  for (const AddressRange& range : intersect(zeros, where)) out.push_back({range.begin, kZeros, range.pages()});
  std::ranges::sort(out, {}, &Pair::living);
  return out;
}

}  // namespace

Result<Ranges> differing(parasite::Visit& visit, const model::Memory& living, const Ranges& within, const Ranges& there,
                         const PageMap& current, const PageStore& store) {
  const Ranges known = intersect(current.ranges(), within);
  const Ranges gone = subtract(known, there);
  const Ranges unknown = subtract(there, known);
  const Ranges zeros = intersect(unknown, zero_backed(living));
  const Ranges copies = subtract(unknown, zeros);

  std::vector<AddressRange> inside;
  for (const model::Mapping& mapping : living.mappings)
    if (readable_inside(mapping)) inside.push_back(mapping.range);
  const Ranges compared = unite(intersect(known, there), zeros);
  const Ranges compared_inside = intersect(compared, normalize(std::move(inside)));

  std::vector<AddressRange> out;
  const std::vector<Pair> pairs = pairs_in(compared_inside, zeros, current);
  if (!pairs.empty()) {
    auto comparison = RELIVE_TRY(InsideComparison::begin(visit, pairs.size()));
    out = RELIVE_TRY(comparison.differing(pairs, store));
  }
  const auto outside =
      RELIVE_TRY(differing_outside(visit.task(), pairs_in(subtract(compared, compared_inside), zeros, current), store));
  out.insert(out.end(), outside.begin(), outside.end());
  return unite(normalize(std::move(out)), unite(gone, copies));
}

}  // namespace relive::tracking
