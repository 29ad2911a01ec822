#include <fmt/format.h>

#include "diff/self_contained.h"

namespace relive::diff {

bool can_become(const model::SignalFile& /*wanted*/, const model::SignalFile& /*living*/) { return true; }

std::vector<std::string> changes(const model::SignalFile& wanted, const model::SignalFile& living) {
  if (wanted.mask == living.mask) return {};
  return {fmt::format("mask {:x} -> {:x}", wanted.mask, living.mask)};
}

CannotMake cannot_make(const model::SignalFile& /*wanted*/) { return {}; }

}  // namespace relive::diff
