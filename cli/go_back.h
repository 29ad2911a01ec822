// What `rollback` and `apply` have in common: the request to go back, and what is told of how it went.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/support.h"

namespace relive::cli {

// The options of both: --dry-run, --dot, --on-failure.
std::vector<Option> way_back_options();

// A word that names a directory, as opposed to a snapshot: it has a slash in it.
[[nodiscard]] bool names_directory(std::string_view word);

// Goes back to the snapshot or the image that `to` names. `command`: "apply", as the user called it. A task without a
// keeper gets one for the time that an image takes.
Result<ExitCode> go_back(const Words& words, Output& output, std::string_view command, const std::string& to);

}  // namespace relive::cli
