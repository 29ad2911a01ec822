#include "tracking/page_map.h"

#include <algorithm>
#include <limits>

namespace relive::tracking {

namespace {

constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

AddressRange range_of(const AddressRange& range) { return range; }
AddressRange range_of(const PageRun& run) { return run.range(); }

// Walks forward over ascending, disjoint ranges or runs.
template <class Item>
class Cursor {
 public:
  explicit Cursor(std::span<const Item> items) : items_(items) {}

  // The item that holds `address`, or null. REQUIRES: addresses never go back.
  const Item* at(std::uint64_t address) {
    while (index_ < items_.size() && range_of(items_[index_]).end <= address) ++index_;
    if (index_ == items_.size() || range_of(items_[index_]).begin > address) return nullptr;
    return &items_[index_];
  }
  // The next address behind the one last asked for at which the answer changes.
  [[nodiscard]] std::uint64_t boundary(std::uint64_t address) const {
    if (index_ == items_.size()) return kNever;
    const AddressRange range = range_of(items_[index_]);
    return range.begin > address ? range.begin : range.end;
  }

 private:
  std::span<const Item> items_;
  std::size_t index_ = 0;
};

void append(Ranges& ranges, AddressRange range) {
  if (range.empty()) return;
  if (!ranges.empty() && ranges.back().end == range.begin)
    ranges.back().end = range.end;
  else
    ranges.push_back(range);
}

void append(std::vector<PageRun>& runs, PageRun run) {
  if (run.pages == 0) return;
  if (!runs.empty() && runs.back().range().end == run.address && runs.back().slot + runs.back().pages == run.slot)
    runs.back().pages += run.pages;
  else
    runs.push_back(run);
}

void append(std::vector<PagePlan::Copy>& copies, PagePlan::Copy copy) {
  if (!copies.empty() && copies.back().to + copies.back().pages * kPageSize == copy.to &&
      copies.back().from + copies.back().pages == copy.from)
    copies.back().pages += copy.pages;
  else
    copies.push_back(copy);
}

// The stretches on which membership in `a` and `b` is constant, given to `wanted(in_a, in_b)`.
template <class Wanted>
Ranges combine(const Ranges& a, const Ranges& b, Wanted wanted) {
  Ranges out;
  Cursor<AddressRange> in_a(a);
  Cursor<AddressRange> in_b(b);
  for (std::uint64_t address = 0; address != kNever;) {
    const bool take = wanted(in_a.at(address) != nullptr, in_b.at(address) != nullptr);
    const std::uint64_t next = std::min(in_a.boundary(address), in_b.boundary(address));
    if (take) append(out, {address, next});
    address = next;
  }
  return out;
}

Slot slot_at(const PageRun& run, std::uint64_t address) { return run.slot + (address - run.address) / kPageSize; }

}  // namespace

std::uint64_t PageMap::pages() const {
  std::uint64_t sum = 0;
  for (const PageRun& run : runs_) sum += run.pages;
  return sum;
}

std::optional<Slot> PageMap::find(std::uint64_t address) const {
  const auto behind = std::ranges::upper_bound(runs_, address, {}, &PageRun::address);
  if (behind == runs_.begin()) return std::nullopt;
  const PageRun& run = *std::prev(behind);
  if (!run.range().contains(address)) return std::nullopt;
  return slot_at(run, address);
}

Ranges PageMap::ranges() const {
  Ranges out;
  for (const PageRun& run : runs_) append(out, run.range());
  return out;
}

std::vector<PageRun> PageMap::within(const Ranges& ranges) const {
  std::vector<PageRun> out;
  Cursor<PageRun> run(runs_);
  Cursor<AddressRange> wanted(ranges);
  for (std::uint64_t address = 0; address != kNever;) {
    const PageRun* here = run.at(address);
    const bool take = wanted.at(address) != nullptr && here != nullptr;
    const std::uint64_t next = std::min(run.boundary(address), wanted.boundary(address));
    if (take) append(out, {address, (next - address) / kPageSize, slot_at(*here, address)});
    address = next;
  }
  return out;
}

void PageMap::replace(AddressRange range, std::span<const PageRun> runs) {
  if (!range.empty()) replace(Ranges{range}, runs);
}

void PageMap::replace(const Ranges& ranges, std::span<const PageRun> runs) {
  std::vector<PageRun> out;
  out.reserve(runs_.size() + runs.size());
  Cursor<PageRun> old_run(runs_);
  Cursor<PageRun> new_run(runs);
  Cursor<AddressRange> replaced(ranges);
  for (std::uint64_t address = 0; address != kNever;) {
    const PageRun* was = old_run.at(address);
    const PageRun* is = new_run.at(address);
    const PageRun* run = replaced.at(address) != nullptr ? is : was;
    const std::uint64_t next =
        std::min({old_run.boundary(address), new_run.boundary(address), replaced.boundary(address)});
    if (run != nullptr) append(out, {address, (next - address) / kPageSize, slot_at(*run, address)});
    address = next;
  }
  runs_ = std::move(out);
}

std::uint64_t PagePlan::pages() const {
  std::uint64_t sum = count_pages(drops);
  for (const Copy& copy : copies) sum += copy.pages;
  return sum;
}

Ranges PagePlan::touched() const {
  Ranges written;
  for (const Copy& copy : copies) append(written, {copy.to, copy.to + copy.pages * kPageSize});
  return unite(written, drops);
}

PagePlan plan_pages(const PageMap& wanted, const PageMap& current, const Ranges& changed, const Ranges& kept,
                    const Ranges& made) {
  PagePlan plan;
  Cursor<PageRun> in_wanted(wanted.runs());
  Cursor<PageRun> in_current(current.runs());
  Cursor<AddressRange> in_changed(changed);
  Cursor<AddressRange> in_kept(kept);
  Cursor<AddressRange> in_made(made);
  for (std::uint64_t address = 0; address != kNever;) {
    const PageRun* want = in_wanted.at(address);
    const PageRun* have = in_current.at(address);
    const bool dirty = in_changed.at(address) != nullptr;
    const bool keep = in_kept.at(address) != nullptr;
    const bool make = in_made.at(address) != nullptr;
    const std::uint64_t next =
        std::min({in_wanted.boundary(address), in_current.boundary(address), in_changed.boundary(address),
                  in_kept.boundary(address), in_made.boundary(address)});
    const bool in_place =
        !make && !dirty && want != nullptr && have != nullptr && slot_at(*want, address) == slot_at(*have, address);
    if (want != nullptr && (make || keep) && !in_place)
      append(plan.copies, {address, slot_at(*want, address), (next - address) / kPageSize});
    if (want == nullptr && keep && !make && (dirty || have != nullptr)) append(plan.drops, {address, next});
    address = next;
  }
  return plan;
}

Ranges unite(const Ranges& a, const Ranges& b) {
  return combine(a, b, [](bool in_a, bool in_b) { return in_a || in_b; });
}

Ranges intersect(const Ranges& a, const Ranges& b) {
  return combine(a, b, [](bool in_a, bool in_b) { return in_a && in_b; });
}

Ranges subtract(const Ranges& a, const Ranges& b) {
  return combine(a, b, [](bool in_a, bool in_b) { return in_a && !in_b; });
}

Ranges normalize(std::vector<AddressRange> ranges) {
  std::erase_if(ranges, [](const AddressRange& range) { return range.empty(); });
  std::ranges::sort(ranges);
  Ranges out;
  for (const AddressRange& range : ranges) {
    if (!out.empty() && range.begin <= out.back().end)
      out.back().end = std::max(out.back().end, range.end);
    else
      out.push_back(range);
  }
  return out;
}

std::uint64_t count_pages(const Ranges& ranges) {
  std::uint64_t sum = 0;
  for (const AddressRange& range : ranges) sum += range.pages();
  return sum;
}

}  // namespace relive::tracking
