// Fault points: places where a test may make relive fail, or die, on purpose.
//
// Executors pass every step through fault_point(); nobody keeps a list by hand. A request carries a FaultPlan
// (`RELIVE_FAULT=fail:N` or `kill:N` in the command's environment); with no plan the points only count. The count comes
// back in the answer, so that a test can fail each step in turn without knowing what the steps are.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace relive {

struct FaultPlan {
  enum class Action : std::uint8_t { none, fail, kill };
  Action action = Action::none;
  std::uint64_t at = 0;  // index of the point, counted from 0 in the order in which they are passed

  // Parses "fail:3" or "kill:3". Empty text is no plan.
  static Result<FaultPlan> parse(std::string_view text);
};

// Starts counting from 0 under `plan`. One plan a process (the keeper serves one request at a time).
void arm_faults(const FaultPlan& plan);
// Points passed since arm_faults, and the name of the last one.
[[nodiscard]] std::uint64_t faults_passed();
[[nodiscard]] std::string last_fault_point();

// Passes one point. Returns ErrorKind::injected if this is the one that is to fail; ends this process with SIGKILL if
// this is the one at which it is to die.
Result<void> fault_point(std::string_view name);

}  // namespace relive
