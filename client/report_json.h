// Reports as JSON text: one object, indented by two. Bytes that are not UTF-8 come out as U+FFFD.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "rollback/protocol.h"

namespace relive::client {

// {"error": {"kind", "message", "what", "errno", "hint", "context"}, "exit_code"}, the last one where it is given
std::string error_json(const Error& error, std::optional<int> exit_code = {});
std::string_view kind_name(ErrorKind kind);

std::string snapshot_json(const rollback::SnapshotReport& report, const std::optional<rollback::ImageReport>& image,
                          std::uint64_t total_us);
std::string rollback_json(const rollback::RollbackReport& report, std::string_view snapshot, int pid, bool dry_run,
                          std::uint64_t total_us);
std::string diff_json(const rollback::DiffReport& report, std::string_view snapshot, int pid);
std::string list_json(const std::vector<rollback::SnapshotInfo>& snapshots);
std::string show_json(const rollback::ShowReport& report);
std::string drop_json(const rollback::DropReport& report, int pid, bool dry_run);

}  // namespace relive::client
