#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <optional>

#include "cli/support.h"
#include "client/report_json.h"

namespace relive::cli {

namespace {

Result<rollback::SnapshotOptions> options_of(const Words& words) {
  rollback::SnapshotOptions options;
  if (words.has("--name")) options.name = RELIVE_TRY(words.snapshot_name("--name"));
  options.replace = words.has("--replace");
  options.take_events = words.has("--take-events");
  for (const std::string& path : words.all("--files"))
    options.files.directories.push_back(RELIVE_TRY(client::real_directory("--files", path)));
  if (words.has("--files-store"))
    options.files.store = RELIVE_TRY(client::real_directory("--files-store", words.get("--files-store")));
  if (words.has("--tracker")) options.tracker = RELIVE_TRY(tracking::parse_tracker(words.get("--tracker")));
  return options;
}

// How far it is, on a terminal.
class Meter {
 public:
  Meter() : shown_(::isatty(STDERR_FILENO) == 1) {}
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;
  ~Meter() {
    if (written_) ::dprintf(STDERR_FILENO, "\r\033[K");
  }
  void show(const rollback::ImageProgress& progress) {
    if (!shown_ || progress.all == 0) return;
    written_ = true;
    ::dprintf(STDERR_FILENO, "\r%s",
              fmt::format("writing: {} of {}, {} %", bytes_text(progress.done), bytes_text(progress.all),
                          progress.done * 100 / progress.all)
                  .c_str());
  }

 private:
  bool shown_;
  bool written_ = false;
};

Result<ExitCode> run(const Words& words, Output& output) {
  const auto options = RELIVE_TRY(options_of(words));
  std::string directory;
  if (words.has("--out")) directory = RELIVE_TRY(whole_path(words.get("--out")));
  const auto key = RELIVE_TRY(task_of(words));
  auto session = RELIVE_TRY(client::Session::begin(caller("snapshot", output), key));
  const auto report = RELIVE_TRY(session.snapshot(options));
  const auto& info = report.info;
  std::optional<rollback::ImageReport> image;
  if (!directory.empty()) {
    Meter meter;
    image = RELIVE_TRY(
        with_context(session.write_image(info.name, directory,
                                         [&](const rollback::ImageProgress& progress) { meter.show(progress); }),
                     fmt::format("snapshot {} was taken; its image", info.name)));
  }
  if (output.json()) {
    output.line(client::snapshot_json(report, image, output.total_us()));
    return ExitCode::done;
  }
  output.line(fmt::format("snapshot {} of {} {}: {}, {}, {}, {}", output.paint(Color::bold, info.name),
                          printable(info.command), info.pid.value, count(info.threads, "thread", "threads"),
                          count(info.pages, "page", "pages"), count(info.mappings, "mapping", "mappings"),
                          count(info.descriptors, "descriptor", "descriptors")));
  output.line(
      output.paint(Color::dim, fmt::format("  frozen {}, {} in all; tracker {}; back with: relive rollback --to {} {}",
                                           milliseconds(report.frozen_us), milliseconds(output.total_us()),
                                           info.tracker, info.name, info.pid.value)));
  if (!info.directories.empty())
    output.line(output.paint(
        Color::dim, fmt::format("  with {}, {}", count(info.files, "file", "files"), bytes_text(info.file_bytes))));
  if (image)
    output.line(output.paint(Color::dim, fmt::format("  image {}: {}, {}, written in {}", image->directory,
                                                     count(image->pages, "page", "pages"), bytes_text(image->bytes),
                                                     milliseconds(image->us))));
  return ExitCode::done;
}

}  // namespace

Command snapshot_command() {
  return {
      .name = "snapshot",
      .group = Group::go_back,
      .summary = "remember the state of a running process",
      .description =
          "The process stands still for the time this takes and runs on. Its snapshots live in a keeper process of its "
          "own,\n"
          "until they are dropped or the process ends. With --out one is written to a directory as well, in CRIU's "
          "format,\n"
          "while the process runs on.",
      .positionals = {{"PID", "the process"}},
      .options =
          {{"--name", "NAME", "what to call it (default: the first free snap-N)", false, {}},
           {"--replace", "", "if there is one of that name, forget it", false, {}},
           {"--out", "DIR", "write it to this directory, which must not be there or be empty", false, {}},
           {"--files", "DIR", "what lies below DIR goes back, too; may be given several times", false, {}},
           {"--files-store", "DIR", "where copies of these files lie (default: beside each DIR)", false, {}},
           {"--take-events", "", "unread inotify events, too: for a moment they are out of their queue", false, {}},
           {"--tracker",
            "TRACKER",
            "how changed pages are found; first snapshot only (default: the best, see doctor)",
            false,
            {"uffd", "soft-dirty", "compare"}}},
      .examples = {{"remember the state of process 1234", "relive snapshot 1234 --name before"},
                   {"move the snapshot forward", "relive snapshot 1234 --name before --replace"},
                   {"with the files of a database", "relive snapshot 1234 --files /var/lib/postgresql/15/main"},
                   {"keep it on disk", "relive snapshot 1234 --out /var/tmp/before"}},
      .run = run,
  };
}

}  // namespace relive::cli
