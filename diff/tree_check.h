// Is a forest one that a kernel could show? Images are input: nothing is planned from one that is not. Pure.
#pragma once

#include <string>
#include <vector>

#include "diff/difference.h"
#include "model/forest.h"

namespace relive::diff {

// `name`: "wanted" or "living", for the refusals. Empty: it holds together.
[[nodiscard]] std::vector<Refusal> check_forest(const model::Forest& forest, const std::string& name);

}  // namespace relive::diff
