// What several commands need: who asks the keeper (client/session.h), and words that become what it is asked.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"
#include "client/session.h"
#include "diff/difference.h"

namespace relive::cli {

// The task that PID names. Errors: usage, not_found, refused (a thread's id, or relive itself).
Result<rollback::TaskKey> task_of(const Words& words);

// "relive COMMAND", whose keepers are this program again. What it is told goes to stderr. REQUIRES: `output` stays.
client::Caller caller(std::string_view command, const Output& output);
// The keeper stands elsewhere: it is told whole paths.
Result<std::string> whole_path(const std::string& path);

// "why not" for people, one refusal a line and its hint below.
void print_refusals(Output& output, const std::vector<diff::Refusal>& refusals);

// The snapshots of `key` include `name`, or not_found.
Result<rollback::SnapshotInfo> find_snapshot(const rollback::Registry& registry, const rollback::TaskKey& key,
                                             std::string_view name);

}  // namespace relive::cli
