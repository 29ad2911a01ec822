// From stages in their order to steps. Pure.
#pragma once

#include "diff/tree_order.h"
#include "diff/tree_track.h"

namespace relive::diff {

// Plays every stage; at the end the subreaper flags are as the goal has them. What breaks is in the track.
[[nodiscard]] Track write_steps(const OrderInput& input, const std::vector<Stage>& stages, const model::Forest& living,
                                const model::Forest& goal);

// What in the track differs from the goal; empty: nothing.
[[nodiscard]] std::string missed(const Track& track, const model::Forest& goal);

}  // namespace relive::diff
