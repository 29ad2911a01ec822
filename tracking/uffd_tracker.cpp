// Asynchronous write protection (userfaultfd(2), UFFD_FEATURE_WP_ASYNC, Linux 6.7): the kernel lifts the protection of
// a page at the first write and goes on; PAGEMAP_SCAN finds the pages that lost it. Nobody waits for a fault handler.
// What the kernel does and does not report: tracking/pagemap.h.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "tracking/backends.h"
#include "tracking/compare.h"
#include "tracking/populated.h"
#include "tracking/userfault.h"

namespace relive::tracking {

namespace {

// Bridging a gap between two ranges to arm costs 1.7 ns a page, a call of its own 0.7 us.
constexpr std::uint64_t kBridgedBytes = 512 * kPageSize;

void push(std::vector<AddressRange>& ranges, AddressRange range) {
  if (!ranges.empty() && ranges.back().end == range.begin)
    ranges.back().end = range.end;
  else
    ranges.push_back(range);
}

class UffdTracker : public Tracker {
 public:
  UffdTracker(UniqueFd userfault, Pagemap pagemap) : userfault_(std::move(userfault)), pagemap_(std::move(pagemap)) {}
  [[nodiscard]] TrackerKind kind() const override { return TrackerKind::uffd; }

  Result<Ranges> changed(parasite::Visit& visit, const model::Memory& living, const PageMap& current,
                         const PageStore& store) override {
    const Ranges refused = refused_in(living);
    const Ranges anonymous = subtract(ranges_with(living, {Care::private_anonymous}), refused);
    const Ranges of_files = subtract(ranges_with(living, {Care::private_file}), refused);
    const Ranges tracked = unite(anonymous, of_files);
    const Ranges compared = unite(ranges_with(living, {Care::shared}), refused);
    const Ranges known = current.ranges();

    const Scan scan = RELIVE_TRY(look(spans_of(tracked, living, visit.session())));
    // Known pages that were written or are gone; in anonymous memory whatever was written.
    Ranges out = intersect(unite(scan.written, scan.bare), intersect(known, tracked));
    out = unite(out, intersect(scan.written, anonymous));
    // In private mappings of files: unknown pages that were written are changed if they are copies; known ones unless
    // they are copies that are protected still.
    const Ranges suspects = subtract(intersect(scan.written, of_files), known);
    out = unite(
        out, RELIVE_TRY(with(
                 suspects, {.inverted = PageIs::file, .all = PageIs::file, .any = PageIs::present | PageIs::swapped})));
    const Ranges known_of_files = intersect(known, of_files);
    const std::uint64_t copy = PageIs::file | PageIs::written;  // both not
    const Ranges sound =
        RELIVE_TRY(with(known_of_files, {.inverted = copy, .all = copy | PageIs::present | PageIs::tracked}));
    out = unite(out, subtract(known_of_files, sound));

    out = unite(out, intersect(late_, tracked));

    const Ranges there = RELIVE_TRY(populated(visit, pagemap_, living, compared));
    out = unite(out, RELIVE_TRY(differing(visit, living, compared, there, current, store)));
    return unite(out, subtract(known, unite(tracked, compared)));
  }

  Result<void> arm(parasite::Visit& visit, const model::Memory& memory, const Ranges& touched) override {
    const Ranges all = ranges_with(memory, {Care::private_anonymous, Care::private_file});
    if (!armed_) {
      RELIVE_TRY(register_mappings(memory, all));
      armed_ = true;
      tracked_ = subtract(all, refused_in(memory));
      return {};
    }
    const Ranges tracked = subtract(all, refused_in(memory));
    tracked_ = tracked;
    std::vector<AddressRange> armed;
    for (const AddressRange& range : bridged(intersect(touched, tracked), spans_of(tracked, memory, visit.session()))) {
      auto done = RELIVE_TRY(pagemap_.protect(range));
      if (!done.all_tracked) done.pages = unite(done.pages, RELIVE_TRY(register_mappings(memory, {range})));
      armed.insert(armed.end(), done.pages.begin(), done.pages.end());
    }
    late_ = unite(subtract(late_, touched), subtract(normalize(std::move(armed)), touched));
    return {};
  }

  [[nodiscard]] bool untouched(const Ranges& beside) const override {
    if (!armed_ || !refused_.empty() || !late_.empty()) return false;
    // "Written" alone, over all there is, is what the kernel answers fastest (pagemap_scan_pmd_entry()).
    constexpr AddressRange kAll{kPageSize, (std::uint64_t{1} << 47) - kPageSize};
    const auto written = with({kAll}, {.all = PageIs::written, .wanted = PageIs::written});
    if (!written) return false;
    if (!intersect(*written, watched_).empty()) return false;
    const Ranges suspects = subtract(intersect(*written, tracked_), beside);
    if (suspects.empty()) return true;
    // Holes in page tables that are new, pages of files and the page of zeros: they were read.
    const std::uint64_t read = PageIs::file | PageIs::zero;
    const auto copies = with(suspects, {.inverted = read, .all = read, .any = PageIs::present | PageIs::swapped});
    return copies && copies->empty();
  }

  Result<bool> watch_shared(const Ranges& mappings) override {
    const Ranges known = std::exchange(watched_, {});
    for (const AddressRange& mapping : mappings) {
      // Protected once, its holes have markers: what is not protected was written, or dropped.
      if (intersect({mapping}, known) == Ranges{mapping} && RELIVE_TRY(pagemap_.protect(mapping)).all_tracked) continue;
      if (register_range(userfault_.get(), mapping) != 0 || protect_range(userfault_.get(), mapping) != 0) return false;
    }
    watched_ = mappings;
    return true;
  }

  [[nodiscard]] Result<Ranges> shared_written() const override {
    return with(watched_, {.all = PageIs::written, .wanted = PageIs::written});
  }

  [[nodiscard]] std::vector<std::string> notes() const override {
    std::vector<std::string> out;
    for (const auto& [range, error_number] : refused_)
      out.push_back(fmt::format(
          "mapping {:x}-{:x} is compared, not tracked: {}", range.begin, range.end,
          error_number == EBUSY ? "it is under a userfaultfd of the task itself" : strerrordesc_np(error_number)));
    return out;
  }

 private:
  struct Scan {
    Ranges
        written;  // present or swapped out, and not protected (but not the page of zeros), or in a mapping not tracked
    Ranges bare;  // nothing there, or the page of zeros: changed only where something was
  };

  Result<Scan> look(const Ranges& spans) const {
    // Everything but what is present, protected and tracked. "Not present" finds holes.
    const std::uint64_t sound = PageIs::present | PageIs::tracked;
    const PageQuery query{
        .inverted = sound,
        .all = 0,
        .any = PageIs::written | sound,
        .wanted = PageIs::tracked | PageIs::written | PageIs::present | PageIs::swapped | PageIs::zero};
    Scan out;
    for (const PageRegion& region : RELIVE_TRY(pagemap_.scan(spans, query))) {
      const auto is = [&](std::uint64_t category) { return (region.categories & category) != 0; };
      const bool there = is(PageIs::present) || is(PageIs::swapped);
      if (there && is(PageIs::tracked) && !is(PageIs::written)) continue;  // swapped out, or a marker: still protected
      push(there && !is(PageIs::zero) ? out.written : out.bare, region.range);
    }
    return out;
  }

  Result<Ranges> with(const Ranges& where, const PageQuery& query) const {
    std::vector<AddressRange> out;
    for (const PageRegion& region : RELIVE_TRY(pagemap_.scan(where, query))) push(out, region.range);
    return out;
  }

  // `ranges` with neighbours joined where that is cheaper than a call more and stays inside one of `spans`.
  static Ranges bridged(const Ranges& ranges, const Ranges& spans) {
    Ranges out;
    std::size_t span = 0;
    for (const AddressRange& range : ranges) {
      while (span < spans.size() && spans[span].end <= range.begin) ++span;
      const bool same_span = !out.empty() && span < spans.size() && spans[span].contains(out.back().begin);
      if (same_span && range.begin - out.back().end <= kBridgedBytes)
        out.back().end = range.end;
      else
        out.push_back(range);
    }
    return out;
  }

  // Registers every mapping of ours that overlaps `where`, and protects what it holds. A mapping that the kernel
  // refuses is compared from now on. Returns the pages that were not protected before.
  Result<Ranges> register_mappings(const model::Memory& memory, const Ranges& where) {
    std::vector<AddressRange> armed;
    std::size_t next = 0;  // in where
    for (const model::Mapping& mapping : memory.mappings) {
      const Care care = care_of(mapping);
      if (care != Care::private_anonymous && care != Care::private_file) continue;
      while (next < where.size() && where[next].end <= mapping.range.begin) ++next;
      if (next == where.size() || !where[next].overlaps(mapping.range)) continue;
      const int error_number = register_range(userfault_.get(), mapping.range);
      if (error_number == ESRCH) return fail(ErrorKind::task_died, "the task's memory is gone");
      const Pagemap::Protected done = error_number == 0 ? RELIVE_TRY(pagemap_.protect(mapping.range))
                                                        : Pagemap::Protected{.all_tracked = false, .pages = {}};
      armed.insert(armed.end(), done.pages.begin(), done.pages.end());
      if (done.all_tracked)
        refused_.erase(mapping.range);
      else
        refused_[mapping.range] = error_number != 0 ? error_number : EINVAL;
    }
    return normalize(std::move(armed));
  }

  // Mappings of `memory` that could not be registered, or overlap one that could not.
  [[nodiscard]] Ranges refused_in(const model::Memory& memory) const {
    if (refused_.empty()) return {};
    std::vector<AddressRange> out;
    for (const auto& [range, error_number] : refused_) out.push_back(range);
    return intersect(normalize(std::move(out)), ranges_with(memory, {Care::private_anonymous, Care::private_file}));
  }

  UniqueFd userfault_;
  Pagemap pagemap_;
  bool armed_ = false;
  Ranges tracked_;                       // at the last arm()
  Ranges watched_;                       // shared memory, as watch_shared() was told
  std::map<AddressRange, int> refused_;  // and why
  // Pages that arm() protected although nobody had reported them: written between changed() and arm(), by the kernel or
  // because arming bridged a gap. The next changed() reports them.
  Ranges late_;
};

}  // namespace

Result<std::unique_ptr<Tracker>> make_uffd_tracker(parasite::Visit& visit) {
  Pagemap pagemap = RELIVE_TRY(Pagemap::open(visit.task().pid()));
  if (!pagemap.can_scan())
    return fail(ErrorKind::unsupported, "PAGEMAP_SCAN is not in this kernel", "Linux 6.7, or another tracker");
  const auto create = [&](std::uint64_t more) {
    return visit.syscall("userfaultfd", SYS_userfaultfd, {O_CLOEXEC | O_NONBLOCK | more});
  };
  for (const model::RemoteFd number : RELIVE_TRY(visit.next_descriptors(1)))  // the keeper may die before it is closed
    RELIVE_TRY(visit.record_undo("close the userfaultfd", SYS_close, {static_cast<std::uint64_t>(number.value)}));
  auto fd = create(0);
  // vm.unprivileged_userfaultfd is 0: faults of the kernel are then not for us to handle, nor do we (WP_ASYNC).
  if (!fd && fd.error().errno_value == EPERM) fd = create(UFFD_USER_MODE_ONLY);
  if (!fd) return std::unexpected(fd.error());
  auto mine = visit.task().borrow(model::RemoteFd{static_cast<int>(*fd)});
  RELIVE_TRY(visit.syscall("close the userfaultfd", SYS_close, {static_cast<std::uint64_t>(*fd)}));
  if (!mine) return std::unexpected(mine.error());
  RELIVE_TRY(enable_async_protection(mine->get()));
  return std::make_unique<UffdTracker>(std::move(*mine), std::move(pagemap));
}

}  // namespace relive::tracking
