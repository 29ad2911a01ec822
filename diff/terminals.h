// What differs between a terminal and itself (model/terminals.h), and what of it cannot be put back. Pure.
#pragma once

#include <string>
#include <vector>

#include "diff/self_contained.h"
#include "model/terminals.h"

namespace relive::diff {

[[nodiscard]] bool can_become(const model::Terminal& wanted, const model::Terminal& living);
// Only what is put right, or is to be told.
[[nodiscard]] std::vector<std::string> changes(const model::Terminal& wanted, const model::Terminal& living);
// Why an open file of it that was closed since cannot be opened again.
[[nodiscard]] CannotMake cannot_make(const model::Terminal& wanted);
// Why the living one cannot be put right, although it is there; empty where it can.
[[nodiscard]] CannotMake cannot_put_right(const model::Terminal& wanted, const model::Terminal& living);
// Must its packet mode be set anew, whatever it is now? Work on the slave leaves status bytes for the master to read.
[[nodiscard]] bool always_put_right(const model::Terminal& wanted);

}  // namespace relive::diff
