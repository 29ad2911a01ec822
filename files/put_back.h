// Carries out what was decided, step by step. Each step may be taken twice; what is found done is passed over.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "files/decide.h"
#include "files/place.h"
#include "files/store.h"

namespace relive::files {

struct Done {
  std::uint64_t files = 0;  // that were removed, came back, or were rewritten
  std::uint64_t bytes = 0;  // written into files
};

// Every step passes a fault point. REQUIRES: the journal is open. After a failure the directory is between `living` and
// `saved`; scanning and deciding anew goes on from there.
Result<Done> carry_out(Paths& paths, Store& store, const Tree& saved, const Work& work);

// Owner, mode, attributes and times become the node's. true: something was set.
Result<bool> put_back_attributes(const Place& place, const Node& node);

}  // namespace relive::files
