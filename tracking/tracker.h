// Which pages may differ from what is known to be in place. One interface, three backends (design, section 7).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/memory.h"
#include "parasite/session.h"
#include "tracking/page_map.h"
#include "tracking/page_store.h"

namespace relive::tracking {

enum class TrackerKind : std::uint8_t { uffd, soft_dirty, compare };
std::string_view tracker_name(TrackerKind kind);  // "uffd", "soft-dirty", "compare"
Result<TrackerKind> parse_tracker(std::string_view name);

// Does the kernel really do it, for this user? Proven by dirtying a page of our own, not by its version.
struct TrackerProof {
  TrackerKind kind;
  bool works = false;
  std::string reason;  // why not, or what was seen
};
std::vector<TrackerProof> prove_trackers();  // best first
TrackerKind best_tracker();

class Tracker {
 public:
  // For a task that is being visited. uffd: creates the userfaultfd inside the task, takes it over, closes it there;
  // when the tracker goes, the kernel ends all tracking. After a failure nothing is left in the task.
  static Result<std::unique_ptr<Tracker>> create(TrackerKind kind, parasite::Visit& visit);
  virtual ~Tracker() = default;
  [[nodiscard]] virtual TrackerKind kind() const = 0;

  // Pages of `living` that may differ from `current` since the last arm(): written, dropped, or in a mapping that was
  // replaced since. Superset of the truth; `compare` gives exactly the truth, but for pages of `current` whose mapping
  // is gone, which every backend reports (so that replacing all that changed() reported leaves no stale page in a map)
  // and copies of file pages that `current` does not know. Shared writable mappings are compared, whoever wrote. What a
  // mapping that relive does not care for (populated.h) holds is not reported.
  virtual Result<Ranges> changed(parasite::Visit& visit, const model::Memory& living, const PageMap& current,
                                 const PageStore& store) = 0;

  // From now on, writes to `memory` are noted. `touched`: ranges that changed() reported or that were written or made
  // since the last arm(); everything else is still armed. The first call arms all. Pages outside `touched` may be armed
  // as well. Does not need the driver: call it behind Visit::commit() too, before the task goes on.
  // A failure leaves the task as it is; changed() then reports too much, never too little.
  virtual Result<void> arm(parasite::Visit& visit, const model::Memory& memory, const Ranges& touched) = 0;

  // Was nothing of the task's own memory written since the last arm(), but for `beside`? Asked from outside, in one
  // look; a backend that cannot tell, or does not know, says no.
  [[nodiscard]] virtual bool untouched([[maybe_unused]] const Ranges& beside) const { return false; }

  // Shared memory, each of `mappings` a whole mapping of it: from now on writes that go through this task's mappings
  // are noted, which shared_written() tells. false: this backend cannot. From then on untouched() speaks of it as well.
  virtual Result<bool> watch_shared([[maybe_unused]] const Ranges& mappings) { return false; }
  [[nodiscard]] virtual Result<Ranges> shared_written() const {
    return fail(ErrorKind::unsupported, "this tracker does not watch shared memory");
  }

  // Mappings that this backend could not track, one line each with the reason. They are compared.
  [[nodiscard]] virtual std::vector<std::string> notes() const { return {}; }
};

}  // namespace relive::tracking
