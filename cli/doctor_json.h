// What `relive doctor` found, as JSON text: one object, indented by two.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/probes.h"
#include "tracking/tracker.h"

namespace relive::cli {

std::string doctor_json(const std::vector<tracking::TrackerProof>& trackers, const std::vector<Finding>& findings,
                        std::string_view tracker, bool ready);

}  // namespace relive::cli
