// What several commands need: the request to the keeper, with the fault plan of the environment.
#pragma once

#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/command.h"
#include "diff/difference.h"
#include "rollback/client.h"

namespace relive::cli {

// The task that PID names. Errors: usage, not_found, refused (a thread's id, or relive itself).
Result<rollback::TaskKey> task_of(const Words& words);

// A request to the keeper of `key`, carrying RELIVE_FAULT.
template <class Options>
rollback::Request request(const rollback::TaskKey& key, Options options) {
  return rollback::Request{key, std::string(std::getenv("RELIVE_FAULT") != nullptr ? std::getenv("RELIVE_FAULT") : ""),
                           std::move(options)};
}

// A keeper answers for the task from now on. A dead one's place is taken, and `command` says so.
Result<void> ensure_keeper(const rollback::Registry& registry, const rollback::TaskKey& key, Output& output,
                           std::string_view command);
// The keeper stands elsewhere: it is told whole paths.
Result<std::string> whole_path(const std::string& path);

// "why not" for people, one refusal a line and its hint below.
void print_refusals(Output& output, const std::vector<diff::Refusal>& refusals);

// The snapshots of `key` include `name`, or not_found.
Result<rollback::SnapshotInfo> find_snapshot(const rollback::Registry& registry, const rollback::TaskKey& key,
                                             std::string_view name);

}  // namespace relive::cli
