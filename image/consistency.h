// Do the entries of an image go together? Each id that is named must be there, and mean what it should. Internal.
#pragma once

#include <cstdint>
#include <set>

#include "image/image.h"
#include "image/parts.h"

namespace relive::image {

// The tree: no cycle, no pid twice, every thread once.
void check_tree(const Parts& parts, Findings& findings);
// Ids between files that no conversion follows: locks, queues, remaps, peers of sockets.
void check_references(const Parts& parts, Findings& findings);
// A task that was read: registers, pages within mappings, watched descriptors. `seen`: ids of the open files that tasks
// before it have: their epoll sets count numbers in the tables of those.
void check_task(const ImagedTask& task, const std::set<std::uint32_t>& seen, Findings& findings);

}  // namespace relive::image
