// Reports of the engine as the structures of relive.h. Each is made with `new`, owns what it points to, and is freed by
// the function of its type.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "lib/relive.h"
#include "rollback/protocol.h"

namespace relive::lib {

// An error with a code of its own, where its kind says too little.
struct Problem {
  relive_code code;
  Error error;
};

// The code that an error of this kind has.
relive_code code_of(const Error& error);

relive_error* make(const Problem& problem);
relive_snapshot_report* make(const rollback::SnapshotReport& report, std::uint64_t total_us,
                             const std::vector<std::string>& notes);
relive_rollback_report* make(const rollback::RollbackReport& report, std::string_view snapshot, int pid, bool dry_run,
                             std::uint64_t total_us);
relive_diff_report* make(const rollback::DiffReport& report, std::string_view snapshot, int pid);
relive_list_report* make(const rollback::ListReport& report);

// What a rollback has failed of; empty: it did what it is for.
std::optional<Problem> problem_of(const rollback::RollbackReport& report, std::string_view snapshot, int pid,
                                  bool dry_run);

}  // namespace relive::lib
