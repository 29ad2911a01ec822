#include <fmt/format.h>

#include <array>
#include <ctime>

#include "cli/support.h"
#include "client/report_json.h"

namespace relive::cli {

namespace {

using rollback::SnapshotInfo;

std::string local_time(std::int64_t ns) {
  const auto seconds = static_cast<std::time_t>(ns / 1'000'000'000);
  std::tm parts{};
  if (::localtime_r(&seconds, &parts) == nullptr) return "?";
  std::array<char, 32> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &parts)};
}

Result<std::vector<SnapshotInfo>> snapshots_of(const rollback::Registry& registry, const rollback::TaskKey& key) {
  return RELIVE_TRY(client::ask_for<rollback::ListReport>(registry, client::request(key, rollback::ListOptions{})))
      .snapshots;
}

// A keeper that cannot be asked is told about and does not hide the others.
std::vector<SnapshotInfo> all_snapshots(const rollback::Registry& registry, const Output& output) {
  std::vector<SnapshotInfo> all;
  for (const auto& key : registry.keepers()) {
    const auto some = snapshots_of(registry, key);
    if (some)
      all.insert(all.end(), some->begin(), some->end());
    else
      output.diagnostic("relive list: " + some.error().text());
  }
  return all;
}

Result<ExitCode> run(const Words& words, Output& output) {
  const bool one = words.has("PID");
  std::vector<SnapshotInfo> snapshots;
  if (one) {
    const auto key = RELIVE_TRY(task_of(words));
    const auto registry = RELIVE_TRY(rollback::Registry::open());
    if (registry.knows(key)) snapshots = RELIVE_TRY(snapshots_of(registry, key));
  } else {
    snapshots = all_snapshots(RELIVE_TRY(rollback::Registry::open()), output);
  }
  if (output.json()) {
    output.line(client::list_json(snapshots));
    return ExitCode::done;
  }
  if (snapshots.empty()) {
    output.line("no snapshots");
    return ExitCode::done;
  }
  Table table({"PID", "COMMAND", "SNAPSHOT", "TAKEN", "THREADS", "PAGES", "MAPPINGS", "DESCRIPTORS", "TRACKER"});
  for (const auto& info : snapshots)
    table.row({fmt::format("{}", info.pid.value), printable(info.command), output.paint(Color::bold, info.name),
               local_time(info.created_ns), fmt::format("{}", info.threads), fmt::format("{}", info.pages),
               fmt::format("{}", info.mappings), fmt::format("{}", info.descriptors), info.tracker});
  for (const auto& line : table.lines()) output.line(line);
  return ExitCode::done;
}

}  // namespace

Command list_command() {
  return {
      .name = "list",
      .group = Group::look,
      .summary = "the snapshots of a process, or all of yours",
      .description = "Without PID: every process that you keep snapshots of.",
      .positionals = {{"PID", "the process", false}},
      .options = {},
      .examples = {{"all of them", "relive list"}, {"those of one process, for programs", "relive list 1234 --json"}},
      .run = run,
  };
}

}  // namespace relive::cli
