// The pages of an image, compared with those of the living tasks: only what differs is taken into the store.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "rollback/image_in.h"
#include "rollback/stay.h"

namespace relive::rollback {

// Compares, and completes Snapshot::parts and Living::changed accordingly; plan_pages() then plans them. Members
// without a store get one. What is taken in is retained for the snapshot: give_up_pages() lets go of it. Of tasks that
// are forked when they have been forked, of the others before. REQUIRES: `plan` has their memory.
enum class OfTasks : std::uint8_t { living, forked };
Result<void> take_in_pages(Stay& stay, Arrival& arrival, Living& living, const Plan& plan, Members& members,
                           OfTasks which);
void give_up_pages(const Snapshot& snapshot, Members& members);

}  // namespace relive::rollback
