// Soft-dirty bits (Documentation/admin-guide/mm/soft-dirty.rst): clear_refs 4 clears them and write-protects; a write
// sets bit 55 of the page's pagemap entry again. Arming is for the whole task only.
//
// What it does not tell, and what is done about it:
// - A page that was dropped and read again maps the page of zeros (or the file's page), clean: such a page of `current`
// is
//   not mapped exclusively (or is of the file). The former is compared, the latter is changed.
// - Pages of a new mapping are all dirty (VM_SOFTDIRTY), until the next arm().
#include <vector>

#include "task/procfs.h"
#include "tracking/backends.h"
#include "tracking/compare.h"
#include "tracking/populated.h"

namespace relive::tracking {

namespace {

constexpr std::uint64_t kBytesAtOnce = std::uint64_t{64} << 20;

void add_page(std::vector<AddressRange>& pages, std::uint64_t address) {
  if (!pages.empty() && pages.back().end == address)
    pages.back().end += kPageSize;
  else
    pages.push_back({address, address + kPageSize});
}

struct Classes {
  std::vector<AddressRange> populated;  // private pages with contents of their own
  std::vector<AddressRange> dirty;      // of these, written since
  std::vector<AddressRange> clean;      // of these, certainly not written, and not the page of zeros
};

class SoftDirtyTracker : public Tracker {
 public:
  explicit SoftDirtyTracker(Pagemap pagemap) : pagemap_(std::move(pagemap)) {}
  [[nodiscard]] TrackerKind kind() const override { return TrackerKind::soft_dirty; }

  Result<Ranges> changed(parasite::Visit& visit, const model::Memory& living, const PageMap& current,
                         const PageStore& store) override {
    const Ranges tracked = ranges_with(living, {Care::private_anonymous, Care::private_file});
    const Ranges compared = ranges_with(living, {Care::shared});
    const Classes classes = RELIVE_TRY(classify(tracked));
    const Ranges known = current.ranges();
    // Before the first arm() the bits tell nothing: a fork takes over pages and not the marks of new mappings.
    const auto& dirty = armed_ ? classes.dirty : classes.populated;
    Ranges out = unite(dirty, subtract(known, unite(classes.populated, compared)));
    const Ranges unsure = intersect(subtract(classes.populated, unite(classes.dirty, classes.clean)), known);
    const Ranges shared = RELIVE_TRY(populated(visit, pagemap_, living, compared));
    return unite(out,
                 RELIVE_TRY(differing(visit, living, unite(unsure, compared), unite(unsure, shared), current, store)));
  }

  Result<void> arm(parasite::Visit& visit, const model::Memory&, const Ranges&) override {
    RELIVE_TRY(task::write_proc(visit.task().pid(), "clear_refs", "4"));
    armed_ = true;
    return {};
  }

 private:
  Result<Classes> classify(const Ranges& ranges) const {
    Classes out;
    for (AddressRange rest : ranges) {
      while (!rest.empty()) {
        const AddressRange part{rest.begin, std::min(rest.end, rest.begin + kBytesAtOnce)};
        const auto entries = RELIVE_TRY(pagemap_.entries(part));
        for (std::size_t i = 0; i < entries.size(); ++i) {
          const std::uint64_t entry = entries[i];
          const std::uint64_t address = part.begin + i * kPageSize;
          if ((entry & (PagemapBit::present | PagemapBit::swapped)) == 0 || (entry & PagemapBit::file) != 0) continue;
          add_page(out.populated, address);
          if ((entry & PagemapBit::soft_dirty) != 0)
            add_page(out.dirty, address);
          else if ((entry & (PagemapBit::exclusive | PagemapBit::swapped)) != 0)
            add_page(out.clean, address);
        }
        rest.begin = part.end;
      }
    }
    return out;
  }

  Pagemap pagemap_;
  bool armed_ = false;
};

}  // namespace

Result<std::unique_ptr<Tracker>> make_soft_dirty_tracker(parasite::Visit& visit) {
  return std::make_unique<SoftDirtyTracker>(RELIVE_TRY(Pagemap::open(visit.task().pid())));
}

}  // namespace relive::tracking
