#include <fmt/format.h>

#include "cli/support.h"
#include "client/report_json.h"

namespace relive::cli {

namespace {

Result<rollback::DropOptions> options_of(const Words& words) {
  const bool all = words.has("--all");
  if (all == words.has("SNAPSHOT"))
    return fail(ErrorKind::usage,
                all ? "--all and a snapshot's name exclude each other" : "which snapshot? name one, or say --all",
                "see: relive drop --help");
  if (all) return rollback::DropOptions{.name = "", .all = true};
  return rollback::DropOptions{.name = RELIVE_TRY(words.snapshot_name("SNAPSHOT")), .all = false};
}

Result<rollback::DropReport> would_drop(const rollback::Registry& registry, const rollback::TaskKey& key,
                                        const rollback::DropOptions& options) {
  rollback::DropReport report;
  if (!options.all) {
    report.dropped.push_back(RELIVE_TRY(find_snapshot(registry, key, options.name)).name);
    return report;
  }
  for (const auto& info :
       RELIVE_TRY(client::ask_for<rollback::ListReport>(registry, client::request(key, rollback::ListOptions{})))
           .snapshots)
    report.dropped.push_back(info.name);
  return report;
}

Result<ExitCode> run(const Words& words, Output& output) {
  const auto options = RELIVE_TRY(options_of(words));
  const bool dry_run = words.has("--dry-run");
  const auto key = RELIVE_TRY(task_of(words));
  auto session = RELIVE_TRY(client::Session::begin(caller("drop", output), key));
  const auto report =
      dry_run ? RELIVE_TRY(would_drop(session.registry(), key, options)) : RELIVE_TRY(session.drop(options));
  if (output.json()) {
    output.line(client::drop_json(report, key.pid.value, dry_run));
    return ExitCode::done;
  }
  for (const auto& name : report.dropped)
    output.line(fmt::format("{} {} of {}", dry_run ? "would drop" : "dropped", name, key.pid.value));
  return ExitCode::done;
}

}  // namespace

Command drop_command() {
  return {
      .name = "drop",
      .group = Group::leave,
      .summary = "forget a snapshot; with the last one, leave the process",
      .description =
          "With the last snapshot everything of relive's leaves the process (no mapping, no descriptor stays) and its "
          "keeper ends.\n"
          "The process runs on as it is.",
      .positionals = {{"SNAPSHOT", "the snapshot's name", false}, {"PID", "the process"}},
      .options = {{"--all", "", "every snapshot of the process", false, {}},
                  {"--dry-run", "", "say what would be dropped, and drop nothing", false, {}}},
      .examples = {{"one snapshot", "relive drop before 1234"}, {"all, and leave", "relive drop --all 1234"}},
      .run = run,
  };
}

}  // namespace relive::cli
