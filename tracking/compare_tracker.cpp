// Compares every page: needs nothing of the kernel, and is what the other trackers are tested against.
#include "tracking/backends.h"
#include "tracking/compare.h"
#include "tracking/populated.h"

namespace relive::tracking {

namespace {

class CompareTracker : public Tracker {
 public:
  explicit CompareTracker(Pagemap pagemap) : pagemap_(std::move(pagemap)) {}
  [[nodiscard]] TrackerKind kind() const override { return TrackerKind::compare; }

  Result<Ranges> changed(parasite::Visit& visit, const model::Memory& living, const PageMap& current,
                         const PageStore& store) override {
    const Ranges all = ranges_with(living, {Care::private_anonymous, Care::private_file, Care::shared});
    const Ranges there = RELIVE_TRY(populated(visit, pagemap_, living, all));
    const Ranges changed_pages = RELIVE_TRY(differing(visit, living, all, there, current, store));
    return unite(changed_pages, subtract(current.ranges(), all));
  }

  Result<void> arm(parasite::Visit&, const model::Memory&, const Ranges&) override { return {}; }

 private:
  Pagemap pagemap_;
};

}  // namespace

Result<std::unique_ptr<Tracker>> make_compare_tracker(parasite::Visit& visit) {
  return std::make_unique<CompareTracker>(RELIVE_TRY(Pagemap::open(visit.task().pid())));
}

}  // namespace relive::tracking
