#include "cli/go_back.h"

namespace relive::cli {

namespace {

Result<ExitCode> run(const Words& words, Output& output) {
  return go_back(words, output, "rollback", words.get("--to"));
}

std::vector<Option> options() {
  std::vector<Option> all{
      {"--to", "SNAPSHOT", "the snapshot's name, or the directory of an image (with a '/')", true, {}}};
  for (Option& option : way_back_options()) all.push_back(std::move(option));
  return all;
}

}  // namespace

Command rollback_command() {
  return {
      .name = "rollback",
      .group = Group::go_back,
      .summary = "take a process back to a snapshot, in place",
      .description =
          "Same pid, same parent: memory, threads, descriptors, signals and timers become what they were. What cannot "
          "be put back is\n"
          "named, and then nothing is touched. The snapshot stays. Also installed as `rollback`.",
      .positionals = {{"PID", "the process"}},
      .options = options(),
      .examples = {{"see what would be done", "relive rollback --to before 1234 --dry-run"},
                   {"go back", "rollback --to before 1234"},
                   {"go back, and let a program read how it went", "rollback --to before 1234 --json"}},
      .run = run,
  };
}

}  // namespace relive::cli
