#include "cli/go_back.h"

namespace relive::cli {

namespace {

Result<ExitCode> run(const Words& words, Output& output) { return go_back(words, output, "apply", words.get("IMAGE")); }

}  // namespace

Command apply_command() {
  return {
      .name = "apply",
      .group = Group::go_back,
      .summary = "make a process what an image on disk says, in place",
      .description =
          "Takes a process back to what `relive snapshot --out` wrote of it, whether its snapshot is still kept or "
          "not. "
          "Every page\n"
          "is compared, and only what differs is changed. What the image has and the process has not is opened and "
          "made "
          "by the\n"
          "process itself, with its own rights. An image that is damaged, or that cannot be applied here, is refused "
          "by "
          "name, and\n"
          "then nothing is touched. Without PID nothing of it may live: the processes are made anew, with the pids "
          "that "
          "they had.\n"
          "Also installed as `apply`.",
      .positionals = {{"IMAGE", "the directory"},
                      {"PID", "the process that it was taken of; none: nothing of it lives", false}},
      .options = way_back_options(),
      .examples = {{"see what would be done", "relive apply /var/tmp/before 1234 --dry-run"},
                   {"make it so", "apply /var/tmp/before 1234"},
                   {"the same", "relive rollback --to /var/tmp/before 1234"},
                   {"it has ended: bring it back", "apply /var/tmp/before"}},
      .run = run,
  };
}

}  // namespace relive::cli
