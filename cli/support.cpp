#include "cli/support.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <climits>

#include "rollback/kept_files.h"

namespace relive::cli {

Result<rollback::TaskKey> task_of(const Words& words) {
  const model::Pid pid = RELIVE_TRY(words.pid());
  if (pid.value == ::getpid())
    return fail(ErrorKind::refused, fmt::format("{} is relive itself", pid.value), "name another task");
  return rollback::identify(pid);
}

Result<void> ensure_keeper(const rollback::Registry& registry, const rollback::TaskKey& key, Output& output,
                           std::string_view command) {
  const bool known = registry.knows(key);
  const auto connection = registry.connect(key);
  if (connection) return {};
  if (connection.error().kind != ErrorKind::not_found) return std::unexpected(connection.error());
  if (known) output.diagnostic(fmt::format("relive {}: {}", command, connection.error().what));
  if (const std::string finished = RELIVE_TRY(rollback::finish_files(registry, key)); !finished.empty())
    output.diagnostic(fmt::format("relive {}: {}", command, finished));
  return rollback::start_keeper(key);
}

Result<std::string> whole_path(const std::string& path) {
  if (path.empty()) return fail(ErrorKind::usage, "a directory needs a name");
  if (path.front() == '/') return path;
  std::array<char, PATH_MAX> here{};
  if (::getcwd(here.data(), here.size()) == nullptr) return fail_errno("getcwd", "of this command");
  return fmt::format("{}/{}", here.data(), path);
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
