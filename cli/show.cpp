#include <fmt/format.h>

#include <map>

#include "cli/json.h"
#include "cli/support.h"

namespace relive::cli {

namespace {

void print_section(Output& output, std::string_view title, const Table& table) {
  if (table.empty()) return;
  output.line("");
  output.line(output.paint(Color::bold, title));
  for (const auto& line : table.lines(2)) output.line(line);
}

Table thread_table(const rollback::ShownTask& task) {
  Table table({"TID", "NAME", "STANDS AT", "STACK", "BLOCKED", "PENDING"});
  for (const auto& thread : task.threads)
    table.row({fmt::format("{}", thread.tid.value), printable(thread.name), fmt::format("{:#x}", thread.instruction),
               fmt::format("{:#x}", thread.stack),
               thread.blocked_signals == 0 ? "-" : fmt::format("{:#x}", thread.blocked_signals),
               fmt::format("{}", thread.pending_signals)});
  return table;
}

// One line per file or kind, in the order of their first address.
Table mapping_table(const rollback::ShownTask& task) {
  struct Sum {
    std::uint64_t begin = 0;
    std::uint64_t mappings = 0;
    std::uint64_t bytes = 0;
    std::uint64_t writable = 0;
  };
  std::vector<std::string> order;
  std::map<std::string, Sum> sums;
  for (const auto& mapping : task.mappings) {
    const std::string name = mapping.name.empty() ? "anonymous" : mapping.name;
    auto& sum = sums[name];
    if (sum.mappings++ == 0) {
      sum.begin = mapping.range.begin;
      order.push_back(name);
    }
    sum.bytes += mapping.range.size();
    if (mapping.access.find('w') != std::string::npos) sum.writable += mapping.range.size();
  }
  Table table({"FROM", "MAPPINGS", "SIZE", "WRITABLE", "WHAT"});
  for (const auto& name : order) {
    const Sum& sum = sums[name];
    table.row({fmt::format("{:#x}", sum.begin), fmt::format("{}", sum.mappings), bytes_text(sum.bytes),
               sum.writable == 0 ? "-" : bytes_text(sum.writable), printable(name)});
  }
  return table;
}

Table descriptor_table(const rollback::ShownTask& task) {
  Table table({"FD", "KIND", "WHAT", ""});
  for (const auto& descriptor : task.descriptors)
    table.row({fmt::format("{}", descriptor.fd), descriptor.kind, printable(descriptor.text),
               descriptor.close_on_exec ? "close-on-exec" : ""});
  return table;
}

Table process_table(const rollback::ShownTask& task) {
  Table table({"", ""});
  for (const auto& value : task.process) table.row({value.name, printable(value.value)});
  return table;
}

std::string tasks_and_threads(const rollback::SnapshotInfo& info) {
  const std::string threads = count(info.threads, "thread", "threads");
  return info.tasks == 1 ? threads : fmt::format("{}, {}", count(info.tasks, "task", "tasks"), threads);
}

Result<ExitCode> run(const Words& words, Output& output) {
  const std::string name = RELIVE_TRY(words.snapshot_name("SNAPSHOT"));
  const auto key = RELIVE_TRY(task_of(words));
  const auto registry = RELIVE_TRY(rollback::Registry::open());
  const auto report =
      RELIVE_TRY(rollback::ask_for<rollback::ShowReport>(registry, request(key, rollback::ShowOptions{name})));
  if (output.json()) {
    output.line(show_json(report));
    return ExitCode::done;
  }
  const auto& info = report.info;
  output.line(fmt::format("snapshot {} of {} {}: {}, {} kept ({}), {}, {}; tracker {}",
                          output.paint(Color::bold, info.name), printable(info.command), info.pid.value,
                          tasks_and_threads(info), count(info.pages, "page", "pages"), bytes_text(info.pages * 4096),
                          count(info.mappings, "mapping", "mappings"),
                          count(info.descriptors, "descriptor", "descriptors"), info.tracker));
  for (const auto& task : report.tasks) {
    if (report.tasks.size() > 1) {
      output.line("");
      output.line(fmt::format("task {} {}, child of {}", output.paint(Color::bold, fmt::format("{}", task.pid.value)),
                              printable(task.name), task.parent.value));
    }
    print_section(output, "process", process_table(task));
    print_section(output, "threads", thread_table(task));
    print_section(output, "mappings", mapping_table(task));
    print_section(output, "descriptors", descriptor_table(task));
  }
  return ExitCode::done;
}

}  // namespace

Command show_command() {
  return {
      .name = "show",
      .group = Group::look,
      .summary = "what a snapshot holds",
      .description =
          "Threads, mappings (summed up by what they map), descriptors, signals and timers at the time of the "
          "snapshot.\n"
          "--json lists every mapping.",
      .positionals = {{"SNAPSHOT", "the snapshot's name"}, {"PID", "the process"}},
      .options = {},
      .examples = {{"what was open then?", "relive show before 1234"}},
      .run = run,
  };
}

}  // namespace relive::cli
