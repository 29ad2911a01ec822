// What a plan would do, as `--dry-run` prints it.
#pragma once

#include <string>
#include <vector>

namespace relive {

// Of a plan, or of a list of operations.
std::vector<std::string> texts(const auto& plan) {
  if constexpr (requires { plan.operations; }) {
    return texts(plan.operations);
  } else {
    std::vector<std::string> out;
    for (const auto& operation : plan) out.push_back(text(operation));
    return out;
  }
}

}  // namespace relive
