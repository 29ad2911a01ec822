#include "cli/go_back.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/fault.h"
#include "client/report_json.h"
#include "rollback/engine.h"

namespace relive::cli {

namespace {

ExitCode verdict(const rollback::RollbackReport& report, bool dry_run) {
  if (report.error && report.fate == apply::Fate::untouched) return exit_code(report.error->kind);
  if (dry_run) return report.refusals.empty() ? ExitCode::done : ExitCode::untouched;
  return exit_code(report.fate);
}

std::string work_text(const rollback::RollbackReport& report) {
  return fmt::format("{}, {}, {}, {}", count(report.threads, "thread", "threads"), count(report.pages, "page", "pages"),
                     count(report.mappings, "mapping", "mappings"),
                     count(report.descriptors, "descriptor", "descriptors")) +
         (report.files == 0
              ? std::string()
              : fmt::format(", {} ({} written)", count(report.files, "file", "files"), bytes_text(report.file_bytes)));
}

void print_dry_run(Output& output, const rollback::RollbackReport& report, std::string_view what) {
  if (report.refusals.empty()) {
    output.line(fmt::format("{} would go back: {}", what, work_text(report)));
  } else {
    output.line(fmt::format("{} would {}:", what, output.paint(Color::red, "not go back")));
    print_refusals(output, report.refusals);
  }
  for (const auto& line : report.plan) output.line("  " + printable(line));
}

// `lived`: there was a process when it began.
void print(Output& output, const rollback::RollbackReport& report, std::string_view what, bool lived) {
  switch (report.fate) {
    case apply::Fate::done:
      output.line(fmt::format("{} is {}: {}", what, output.paint(Color::green, "back"), work_text(report)));
      output.line(output.paint(
          Color::dim, fmt::format("  frozen {}, {} in all; tracker {}{}", milliseconds(report.frozen_us),
                                  milliseconds(output.total_us()), report.tracker,
                                  report.at_rest == 0
                                      ? std::string()
                                      : fmt::format("; {} of {} tasks had not run", report.at_rest, report.tasks))));
      break;
    case apply::Fate::untouched:
      output.line(fmt::format(fmt::runtime(lived ? "{} was {} and runs on{}" : "{}: {}{}"), what,
                              output.paint(Color::yellow, lived ? "not touched" : "nothing was made"),
                              report.refusals.empty() ? "" : "; what is in the way:"));
      print_refusals(output, report.refusals);
      break;
    case apply::Fate::stopped:
      output.line(fmt::format("{} is {}, half way back", what, output.paint(Color::red, "left stopped")));
      break;
    case apply::Fate::killed:
      output.line(fmt::format("{} was {}, half way back", what, output.paint(Color::red, "killed")));
      break;
  }
  for (const auto& note : report.notes) output.line("  " + printable(note));
}

// With --json an error that left the task alone is a report too: programs look at `fate` first.
Result<rollback::RollbackReport> as_report(Result<rollback::RollbackReport> result, bool json) {
  if (result || !json) return result;
  const ErrorKind kind = result.error().kind;
  if (kind == ErrorKind::system || kind == ErrorKind::task_died) return result;  // who knows what the task is now
  rollback::RollbackReport report;
  report.error = std::move(result).error();
  return report;
}

// Nothing of the image lives. The processes are children of this one, and init's when it has ended.
Result<rollback::RollbackReport> restore(const rollback::RollbackOptions& options, int& pid) {
  const char* const fault = std::getenv("RELIVE_FAULT");
  arm_faults(RELIVE_TRY(FaultPlan::parse(fault == nullptr ? "" : fault)));
  auto restored = RELIVE_TRY(rollback::Engine::restore(options));
  pid = restored.root.value;
  return std::move(restored.report);
}

Result<rollback::RollbackReport> ask(const Words& words, const rollback::RollbackOptions& options, const Output& output,
                                     std::string_view command) {
  const auto key = RELIVE_TRY(task_of(words));
  auto session = RELIVE_TRY(client::Session::begin(caller(command, output), key));
  return session.go_back(options);
}

}  // namespace

std::vector<Option> way_back_options() {
  return {{"--dry-run", "", "say what would be done, and do nothing", false, {}},
          {"--dot",
           "",
           "with --dry-run: only how tasks are made and ended, and what comes before what, for Graphviz",
           false,
           {}},
          {"--on-failure",
           "ACT",
           "what becomes of the process if the kernel breaks it off half way (default: stop)",
           false,
           {"stop", "kill"}}};
}

bool names_directory(std::string_view word) { return word.find('/') != std::string_view::npos; }

Result<ExitCode> go_back(const Words& words, Output& output, std::string_view command, const std::string& to) {
  rollback::RollbackOptions options;
  if (command == "apply" || names_directory(to)) {
    options.image = RELIVE_TRY(whole_path(to));
    if (std::error_code error; !std::filesystem::is_directory(options.image, error))
      return fail(ErrorKind::not_found, fmt::format("{}: no such directory", printable(to)),
                  "relive snapshot PID --out DIR writes an image");
  } else {
    options.name = RELIVE_TRY(words.snapshot_name("--to"));
  }
  options.dry_run = words.has("--dry-run");
  if (words.has("--dot") && !options.dry_run)
    return fail(ErrorKind::usage, "--dot draws what --dry-run tells", "give both");
  options.on_failure = words.get("--on-failure") == "kill" ? rollback::OnFailure::kill : rollback::OnFailure::stop;
  const bool lives = !words.get("PID").empty();
  int pid = lives ? RELIVE_TRY(words.pid()).value : 0;
  auto result = lives ? ask(words, options, output, command) : restore(options, pid);
  const auto report = RELIVE_TRY(as_report(std::move(result), output.json()));
  const ExitCode code = verdict(report, options.dry_run);
  if (report.error) output.explain(fmt::format("relive {}", command), *report.error);
  if (output.json()) {
    output.line(client::rollback_json(report, to, pid, options.dry_run, output.total_us()));
    return code;
  }
  if (words.has("--dot")) {
    output.line(report.dot);
    return code;
  }
  const std::string what = fmt::format("{} at '{}'", pid, printable(to));
  if (options.dry_run)
    print_dry_run(output, report, fmt::format("{} to '{}'", pid, printable(to)));
  else
    print(output, report, report.fate == apply::Fate::done ? what : fmt::format("{}", pid), lives);
  return code;
}

}  // namespace relive::cli
