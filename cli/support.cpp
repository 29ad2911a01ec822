#include "cli/support.h"

#include <fmt/format.h>
#include <unistd.h>

namespace relive::cli {

Result<rollback::TaskKey> task_of(const Words& words) {
  const model::Pid pid = RELIVE_TRY(words.pid());
  if (pid.value == ::getpid())
    return fail(ErrorKind::refused, fmt::format("{} is relive itself", pid.value), "name another task");
  return rollback::identify(pid);
}

void print_refusals(Output& output, const std::vector<diff::Refusal>& refusals) {
  for (const auto& refusal : refusals) {
    output.line(fmt::format("  {} {}: {}", output.paint(Color::red, "!"), printable(refusal.object),
                            printable(refusal.reason)));
    if (!refusal.hint.empty()) output.line(output.paint(Color::dim, fmt::format("      {}", printable(refusal.hint))));
  }
}

Result<rollback::SnapshotInfo> find_snapshot(const rollback::Registry& registry, const rollback::TaskKey& key,
                                             std::string_view name) {
  const auto report =
      RELIVE_TRY(rollback::ask_for<rollback::ListReport>(registry, request(key, rollback::ListOptions{})));
  std::string known;
  for (const auto& info : report.snapshots) {
    if (info.name == name) return info;
    known += (known.empty() ? "" : ", ") + info.name;
  }
  return fail(ErrorKind::not_found, fmt::format("task {} has no snapshot '{}'", key.pid.value, name),
              known.empty() ? "" : "it has: " + known);
}

}  // namespace relive::cli
