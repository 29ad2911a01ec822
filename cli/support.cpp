#include "cli/support.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <climits>

namespace relive::cli {

Result<rollback::TaskKey> task_of(const Words& words) { return client::task_of(RELIVE_TRY(words.pid())); }

client::Caller caller(std::string_view command, const Output& output) {
  std::string name = fmt::format("relive {}", command);
  auto tell = [&output, name](const std::string& text) { output.diagnostic(fmt::format("{}: {}", name, text)); };
  return {.name = std::move(name),
          .keeper_program = [] -> Result<std::string> { return "/proc/self/exe"; },
          .tell = std::move(tell)};
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
      RELIVE_TRY(client::ask_for<rollback::ListReport>(registry, client::request(key, rollback::ListOptions{})));
  std::string known;
  for (const auto& info : report.snapshots) {
    if (info.name == name) return info;
    known += (known.empty() ? "" : ", ") + info.name;
  }
  return fail(ErrorKind::not_found, fmt::format("task {} has no snapshot '{}'", key.pid.value, name),
              known.empty() ? "" : "it has: " + known);
}

}  // namespace relive::cli
