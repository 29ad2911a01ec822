#include "rollback/image_pages.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/fault.h"
#include "rollback/shared_memory.h"
#include "tracking/compare.h"
#include "tracking/populated.h"

namespace relive::rollback {

namespace {

constexpr std::uint64_t kBatchPages = 64;  // both copies stay in the processor's cache
constexpr AddressRange kEverything{0, std::uint64_t{1} << 63};

tracking::Ranges ranges_of(const image::PageRuns& runs) {
  std::vector<AddressRange> ranges;
  for (const image::PageRun& run : runs) ranges.push_back(run.range());
  return tracking::normalize(std::move(ranges));
}

// One task's pages beside those of its image.
class Comparison {
 public:
  Comparison(const image::Image& image, const image::ImagedTask& imaged, const task::FrozenTask& task)
      : image_(image), imaged_(imaged), task_(task), here_(kBatchPages * kPageSize), there_(kBatchPages * kPageSize) {}

  // Pages that the image has in `within` and that are others in the task.
  Result<tracking::Ranges> differing(const tracking::Ranges& within) {
    for (const AddressRange& range : within)
      for (const image::PageRun& run : image::within(imaged_.pages, range)) RELIVE_TRY(compare(run));
    return tracking::normalize(std::exchange(out_, {}));
  }

  // For PageStore::take_in.
  Result<void> read(std::span<const AddressRange> pieces, std::span<std::byte> into) const {
    for (const AddressRange& piece : pieces) {
      for (const image::PageRun& run : image::within(imaged_.pages, piece)) {
        const auto part = into.subspan(run.address - piece.begin, run.pages * kPageSize);
        RELIVE_TRY(with_context(image_.page_files.read(run, 0, part), "reading pages of the image"));
      }
      into = into.subspan(piece.size());
    }
    return {};
  }

 private:
  Result<void> compare(const image::PageRun& run) {
    for (std::uint64_t first = 0; first < run.pages; first += kBatchPages) {
      const std::uint64_t pages = std::min(kBatchPages, run.pages - first);
      const std::uint64_t address = run.address + first * kPageSize;
      const auto here = std::span(here_).first(pages * kPageSize);
      const auto there = std::span(there_).first(pages * kPageSize);
      RELIVE_TRY(with_context(image_.page_files.read(run, first, here), "reading pages of the image"));
      RELIVE_TRY(read_living(address, there));
      if (std::memcmp(here.data(), there.data(), here.size()) == 0) continue;
      for (std::uint64_t page = 0; page < pages * kPageSize; page += kPageSize) {
        if (std::memcmp(here.data() + page, there.data() + page, kPageSize) == 0) continue;
        if (!out_.empty() && out_.back().end == address + page)
          out_.back().end += kPageSize;
        else
          out_.push_back({address + page, address + page + kPageSize});
      }
    }
    return {};
  }

  // Page by page where that fails: a batch may begin in memory that the task may not read itself.
  Result<void> read_living(std::uint64_t address, std::span<std::byte> into) const {
    if (task_.read({address}, into)) return {};
    for (; !into.empty(); address += kPageSize, into = into.subspan(kPageSize))
      RELIVE_TRY(with_context(task_.read({address}, into.first(kPageSize)), "comparing a page"));
    return {};
  }

  const image::Image& image_;
  const image::ImagedTask& imaged_;
  const task::FrozenTask& task_;
  std::vector<std::byte> here_;
  std::vector<std::byte> there_;
  std::vector<AddressRange> out_;
};

Result<void> take_in(parasite::Visit& visit, const Arrival& arrival, std::size_t index, TaskPart& part, Living& living,
                     const diff::MemoryPlan& plan, Member& member) {
  const image::ImagedTask& imaged = arrival.image.tasks[arrival.tasks[index]];
  part.not_its_own = tracking::unite(part.not_its_own, tracking::normalize(imaged.untold));
  const tracking::Ranges kept = tracking::subtract(plan.kept, part.not_its_own);
  const tracking::Ranges made = tracking::subtract(plan.made, part.not_its_own);
  const tracking::Ranges told = ranges_of(imaged.pages);
  if (!member.store) member.store.emplace(RELIVE_TRY(tracking::PageStore::create(visit)));
  tracking::PageStore& store = *member.store;

  Comparison comparison(arrival.image, imaged, visit.task());
  tracking::Ranges differing = RELIVE_TRY(comparison.differing(kept));
  // What the image does not tell is what the mapping's backing gives.
  const tracking::Ranges backed = tracking::subtract(kept, told);
  const model::Memory& now = living.tasks[index]->memory;
  const tracking::Ranges there = tracking::intersect(RELIVE_TRY(tracking::populated(visit, now, backed)), backed);
  differing = tracking::unite(differing, RELIVE_TRY(tracking::differing(visit, now, backed, there, {}, store)));

  tracking::Ranges& changed = living.changed[index];
  changed = tracking::unite(changed, differing);
  RELIVE_TRY(fault_point("apply: take pages in"));
  const tracking::Ranges wanted = tracking::intersect(told, tracking::unite(tracking::intersect(changed, kept), made));
  const auto runs = RELIVE_TRY(store.take_in(
      visit, wanted, tracking::zero_backed(arrival.snapshot.tree.tasks[index].memory),
      [&](std::span<const AddressRange> pieces, std::span<std::byte> into) { return comparison.read(pieces, into); }));
  // The rest is in place, and where the keeper knows it, it goes on knowing it.
  part.pages = visit.task().blank() ? tracking::PageMap{} : member.current;
  part.pages.replace(tracking::subtract({kEverything}, tracking::subtract(kept, changed)), runs);
  store.retain(part.pages.runs());
  return {};
}

}  // namespace

Result<void> take_in_pages(Stay& stay, Arrival& arrival, Living& living, const Plan& plan, Members& members,
                           OfTasks which) {
  Snapshot& snapshot = arrival.snapshot;
  for (std::size_t index = 0; index < snapshot.tree.tasks.size(); ++index) {
    const model::Pid pid = snapshot.tree.tasks[index].pid;
    const bool forked = std::ranges::find(plan.tree.created, pid) != plan.tree.created.end();
    if (forked != (which == OfTasks::forked)) continue;
    RELIVE_TRY(take_in(*stay.visit(pid), arrival, index, snapshot.parts[index], living, plan.tasks[index]->memory,
                       members.at(pid)));
  }
  return {};
}

void give_up_pages(const Snapshot& snapshot, Members& members) {
  for (std::size_t index = 0; index < snapshot.parts.size(); ++index) {
    const auto member = members.find(snapshot.tree.tasks[index].pid);
    if (member != members.end() && member->second.store)
      member->second.store->release(snapshot.parts[index].pages.runs());
  }
}

}  // namespace relive::rollback
