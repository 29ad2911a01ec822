#include "rollback/keeper.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "cli/support.h"

namespace relive::cli {

namespace {

Result<ExitCode> run(const Words& words, Output&) {
  const auto key = rollback::TaskKey::parse(words.get("PID") + "-" + words.get("START"));
  if (!key || ::fcntl(rollback::kHandshake, F_GETFD) < 0)
    return fail(ErrorKind::usage, "relive keeper is started by relive snapshot", "see: relive snapshot --help");
  return rollback::run_keeper(*key, UniqueFd(rollback::kHandshake)) == 0 ? ExitCode::done : ExitCode::untouched;
}

}  // namespace

Command keeper_command() {
  return {
      .name = "keeper",
      .group = Group::hidden,
      .summary = "the process that keeps the snapshots of one process",
      .description = "Started by `relive snapshot`; not for people.",
      .positionals = {{"PID", "the process"}, {"START", "its start time"}},
      .options = {},
      .examples = {},
      .run = run,
  };
}

}  // namespace relive::cli
