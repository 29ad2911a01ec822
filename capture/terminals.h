// Looking at one terminal through a descriptor of ours.
#pragma once

#include <sys/stat.h>

#include <string>

#include "base/result.h"
#include "model/ids.h"
#include "model/terminals.h"

namespace relive::capture {

// What the terminal behind our descriptor tells, to the task `pid` (whose controlling terminal it may be). `inside` is
// left to complete_terminals(). Nothing is changed by it; a hang-up is an answer, not an error.
Result<model::Terminal> look_at_terminal(int ours, const struct stat& status, model::Pid pid, std::string path);

}  // namespace relive::capture
