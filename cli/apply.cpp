#include "cli/command.h"

namespace relive::cli {

namespace {

Result<ExitCode> run(const Words&, Output&) {
  return fail(ErrorKind::unsupported, "apply needs images on disk, which this release does not have yet",
              "snapshots of running processes work: relive snapshot PID, relive rollback --to SNAPSHOT PID");
}

}  // namespace

Command apply_command() {
  return {
      .name = "apply",
      .group = Group::hidden,
      .summary = "make a process what an image says (not in this release)",
      .description = "Images on disk come in a later release; until then this command is refused with exit code 4.",
      .positionals = {{"IMAGE", "a directory", false}, {"PID", "the process", false}},
      .options = {},
      .examples = {},
      .run = run,
  };
}

}  // namespace relive::cli
