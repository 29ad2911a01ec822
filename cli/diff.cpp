#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "cli/support.h"
#include "client/report_json.h"

namespace relive::cli {

namespace {

struct Family {
  diff::Family family;
  std::string_view title;
  std::string_view one;
  std::string_view many;
};

constexpr std::array<Family, 8> kFamilies = {{
    {diff::Family::thread, "threads", "thread", "threads"},
    {diff::Family::mapping, "mappings", "mapping", "mappings"},
    {diff::Family::page, "pages", "page", "pages"},
    {diff::Family::descriptor, "descriptors", "descriptor", "descriptors"},
    {diff::Family::signal, "signals", "signal", "signals"},
    {diff::Family::timer, "timers", "timer", "timers"},
    {diff::Family::process, "process", "attribute", "attributes"},
    {diff::Family::file, "files", "file", "files"},
}};

std::string sign_text(const Output& output, diff::Sign sign) {
  switch (sign) {
    case diff::Sign::added:
      return output.paint(Color::green, "+");
    case diff::Sign::removed:
      return output.paint(Color::red, "-");
    case diff::Sign::changed:
      return output.paint(Color::yellow, "~");
  }
  return "?";
}

// Below its heading an object need not say its kind: "descriptor 7 (x)" is "7 (x)".
std::string object_text(const Family& family, const diff::Difference& difference) {
  std::string_view object = difference.object;
  const bool number_says_little = family.family == diff::Family::signal;
  if (!number_says_little && object.starts_with(std::string(family.one) + " "))
    object.remove_prefix(family.one.size() + 1);
  return printable(object);
}

std::string detail(const diff::Difference& difference) {
  if (difference.text.empty() && difference.pages != 0) return count(difference.pages, "page", "pages");
  return printable(difference.text);
}

// "2 threads, 120 pages, 1 descriptor"
std::string summary(const std::vector<diff::Difference>& differences) {
  std::string out;
  for (const auto& family : kFamilies) {
    std::uint64_t number = 0;
    for (const auto& difference : differences)
      if (difference.family == family.family) number += family.family == diff::Family::page ? difference.pages : 1;
    if (number != 0) out += (out.empty() ? "" : ", ") + count(number, family.one, family.many);
  }
  return out;
}

void print_family(Output& output, const Family& family, const std::vector<diff::Difference>& differences) {
  Table table({"", "", ""});
  for (const auto& difference : differences)
    if (difference.family == family.family)
      table.row({sign_text(output, difference.sign), object_text(family, difference), detail(difference)});
  if (table.empty()) return;
  output.line("");
  output.line(output.paint(Color::bold, family.title));
  for (const auto& line : table.lines(2)) output.line(line);
}

Result<ExitCode> run(const Words& words, Output& output) {
  const std::string name = RELIVE_TRY(words.snapshot_name("SNAPSHOT"));
  const auto key = RELIVE_TRY(task_of(words));
  const auto registry = RELIVE_TRY(rollback::Registry::open());
  const auto report =
      RELIVE_TRY(client::ask_for<rollback::DiffReport>(registry, client::request(key, rollback::DiffOptions{name})));
  if (output.json()) {
    output.line(client::diff_json(report, name, key.pid.value));
    return ExitCode::done;
  }
  if (report.differences.empty() && report.refusals.empty()) {
    output.line(fmt::format("{} is as it was at '{}'", key.pid.value, name));
    return ExitCode::done;
  }
  output.line(
      fmt::format("{} since '{}': {}", key.pid.value, output.paint(Color::bold, name), summary(report.differences)));
  output.line(
      output.paint(Color::dim, fmt::format("  + since the snapshot   - gone since   ~ changed since   (frozen {})",
                                           milliseconds(report.frozen_us))));
  for (const auto& family : kFamilies) print_family(output, family, report.differences);
  output.line("");
  if (report.refusals.empty()) {
    output.line(
        fmt::format("{} relive rollback --to {} {}", output.paint(Color::green, "can go back:"), name, key.pid.value));
    return ExitCode::done;
  }
  output.line(fmt::format("{}", output.paint(Color::red, "cannot go back:")));
  print_refusals(output, report.refusals);
  return ExitCode::done;
}

}  // namespace

Command diff_command() {
  return {
      .name = "diff",
      .group = Group::look,
      .summary = "what has changed in a process since a snapshot",
      .description =
          "Like a status, for a process: threads, mappings, pages, descriptors, signals, timers. Changes nothing.\n"
          "The process stands still while it is read.",
      .positionals = {{"SNAPSHOT", "the snapshot's name"}, {"PID", "the process"}},
      .options = {},
      .examples = {{"what has it done since?", "relive diff before 1234"},
                   {"for programs", "relive diff before 1234 --json"}},
      .run = run,
  };
}

}  // namespace relive::cli
