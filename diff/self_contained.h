// What the planner asks of a self-contained kind (model/self_contained.h): one overload of each a kind. Pure.
#pragma once

#include <string>
#include <vector>

#include "model/self_contained.h"

namespace relive::diff {

// Could the living object become the wanted one in place? If not, it is made anew.
[[nodiscard]] bool can_become(const model::EventCounter& wanted, const model::EventCounter& living);

// What differs, a phrase each ("count 3 -> 5"); empty where nothing must be put right.
[[nodiscard]] std::vector<std::string> changes(const model::EventCounter& wanted, const model::EventCounter& living);

// Why it cannot be made anew; empty where it can.
struct CannotMake {
  std::string reason;
  std::string hint;
};
[[nodiscard]] CannotMake cannot_make(const model::EventCounter& wanted);

}  // namespace relive::diff
