// The three trackers. Use Tracker::create().
#pragma once

#include <memory>

#include "tracking/tracker.h"

namespace relive::tracking {

Result<std::unique_ptr<Tracker>> make_uffd_tracker(parasite::Visit& visit);
Result<std::unique_ptr<Tracker>> make_soft_dirty_tracker(parasite::Visit& visit);
Result<std::unique_ptr<Tracker>> make_compare_tracker(parasite::Visit& visit);

}  // namespace relive::tracking
