// Reading what lies below a directory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "files/place.h"
#include "files/tree.h"

namespace relive::files {

// Something below the directory that cannot be saved or put back, by name.
struct Obstacle {
  std::string path;
  std::string reason;
  std::string hint;
};

struct Scan {
  Tree tree;
  std::vector<Obstacle> obstacles;  // mount points
};

// Whether attributes and targets of symbolic links are read, too: dear, and needless where change times are compared.
enum class Detail : std::uint8_t { times, all };

// `known`: a saved state of the same directory, or null. The names in a directory that has not changed since are taken
// from there. `hidden`: inode number of a directory in it that is relive's own and is passed over; 0: none.
// What vanishes while it is looked at is passed over.
Result<Scan> scan(int top, Detail detail, const Tree* known, std::uint64_t hidden);

// One inode. REQUIRES: the place is there.
Result<Node> read_node(const Place& place, Detail detail);

}  // namespace relive::files
