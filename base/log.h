// Diagnostics of the keeper and the commands: to stderr, one line each, never on the hot path.
// RELIVE_LOG=debug shows all of them, the debug ones with the time (CLOCK_MONOTONIC); the default shows warnings only.
#pragma once

#include <string_view>

namespace relive {

void log_debug(std::string_view line);
void log_warning(std::string_view line);

}  // namespace relive
