#include <fmt/format.h>

#include <map>

#include "cli/image_json.h"
#include "cli/support.h"
#include "client/report_json.h"
#include "image/elf_core.h"
#include "image/read.h"

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

void print_task(Output& output, const rollback::ShownTask& task) {
  print_section(output, "process", process_table(task));
  print_section(output, "threads", thread_table(task));
  print_section(output, "mappings", mapping_table(task));
  print_section(output, "descriptors", descriptor_table(task));
}

// How deep each task stands in the tree.
void print_tree(Output& output, const image::Image& image) {
  std::map<int, std::size_t> depth;
  for (const auto& task : image.tasks) {
    const auto parent = depth.find(task.task.process.parent);
    const std::size_t indent = parent == depth.end() ? 1 : parent->second + 1;
    depth[task.task.pid.value] = indent;
    const auto info = rollback::image_info(task);
    output.line(
        fmt::format("{:{}}{} {}: {}, {}, {}, {}", "", 2 * indent, task.task.pid.value, printable(info.command),
                    task.state == image::TaskState::zombie ? "zombie" : count(info.threads, "thread", "threads"),
                    count(info.pages, "page", "pages"), count(info.mappings, "mapping", "mappings"),
                    count(info.descriptors, "descriptor", "descriptors")));
  }
}

Result<const image::ImagedTask*> task_for_core(const image::Image& image, const Words& words) {
  if (image.tasks.empty()) return fail(ErrorKind::refused, "the image has no task");
  if (!words.has("--task")) {
    if (image.tasks.size() == 1) return &image.tasks.front();
    return fail(ErrorKind::usage, fmt::format("the image has {} tasks", image.tasks.size()), "--task PID says which");
  }
  const std::string wanted = words.get("--task");
  for (const auto& task : image.tasks)
    if (fmt::format("{}", task.task.pid.value) == wanted) return &task;
  return fail(ErrorKind::not_found, fmt::format("the image has no task {}", wanted));
}

Result<ExitCode> show_image(const Words& words, Output& output) {
  const std::string path = words.get("SNAPSHOT");
  const auto source = RELIVE_TRY(image::open_directory(path));
  image::Findings findings;
  const image::Image image = image::read_image(*source, findings);
  if (findings.any_damage()) {
    output.diagnostic(fmt::format("relive show: the image is damaged: {}", printable(text(findings.all().front()))));
    output.diagnostic(fmt::format("  relive check {} names everything that is wrong with it", printable(path)));
  }
  if (words.has("--core")) {
    if (findings.any_damage()) return ExitCode::untouched;
    const image::ImagedTask* task = RELIVE_TRY(task_for_core(image, words));
    RELIVE_TRY(image::write_core(image, *task, words.get("--core")));
    if (!output.json()) {
      output.line(fmt::format("core {}: task {}, {}", printable(words.get("--core")), task->task.pid.value,
                              count(task->task.threads.size(), "thread", "threads")));
      return ExitCode::done;
    }
  }
  const ExitCode code = findings.any_damage() ? ExitCode::untouched : ExitCode::done;
  if (output.json()) {
    output.line(image_json(path, image, findings));
    return code;
  }
  output.line(fmt::format("image {}: {}{}", output.paint(Color::bold, printable(path)),
                          count(image.tasks.size(), "task", "tasks"), image.ours ? ", written by relive" : ""));
  print_tree(output, image);
  for (const auto& task : image.tasks) {
    if (image.tasks.size() > 1) {
      output.line("");
      output.line(output.paint(Color::bold, fmt::format("task {}", task.task.pid.value)));
    }
    print_task(output, rollback::show(task).tasks.front());
  }
  return code;
}

Result<ExitCode> run(const Words& words, Output& output) {
  if (!words.has("PID")) return show_image(words, output);
  if (words.has("--core") || words.has("--task"))
    return fail(ErrorKind::usage, "--core and --task are for images on disk",
                "relive snapshot PID --out DIR writes one");
  const std::string name = RELIVE_TRY(words.snapshot_name("SNAPSHOT"));
  const auto key = RELIVE_TRY(task_of(words));
  const auto registry = RELIVE_TRY(rollback::Registry::open());
  const auto report =
      RELIVE_TRY(client::ask_for<rollback::ShowReport>(registry, client::request(key, rollback::ShowOptions{name})));
  if (output.json()) {
    output.line(client::show_json(report));
    return ExitCode::done;
  }
  const auto& info = report.info;
  output.line(fmt::format("snapshot {} of {} {}: {}, {} kept ({}), {}, {}; tracker {}",
                          output.paint(Color::bold, info.name), printable(info.command), info.pid.value,
                          tasks_and_threads(info), count(info.pages, "page", "pages"), bytes_text(info.pages * 4096),
                          count(info.mappings, "mapping", "mappings"),
                          count(info.descriptors, "descriptor", "descriptors"), info.tracker));
  if (!info.directories.empty())
    output.line(fmt::format("  with {} ({}) below {}", count(info.files, "file", "files"), bytes_text(info.file_bytes),
                            printable(fmt::format("{}", fmt::join(info.directories, ", ")))));
  for (const auto& task : report.tasks) {
    if (report.tasks.size() > 1) {
      output.line("");
      output.line(fmt::format("task {} {}, child of {}", output.paint(Color::bold, fmt::format("{}", task.pid.value)),
                              printable(task.name), task.parent.value));
    }
    print_task(output, task);
  }
  return ExitCode::done;
}

}  // namespace

Command show_command() {
  return {
      .name = "show",
      .group = Group::look,
      .summary = "what a snapshot, or an image on disk, holds",
      .description =
          "Threads, mappings (summed up by what they map), descriptors, signals and timers at the time of the "
          "snapshot.\n"
          "--json lists every mapping. Without PID, SNAPSHOT is an image directory.",
      .positionals = {{"SNAPSHOT", "the snapshot's name, or a directory"}, {"PID", "the process", false}},
      .options = {{"--core", "FILE", "of an image: write a task as an ELF core file for a debugger", false, {}},
                  {"--task", "PID", "which task of the image", false, {}}},
      .examples = {{"what was open then?", "relive show before 1234"},
                   {"look into an image with a debugger", "relive show /var/tmp/before --core /tmp/core"}},
      .run = run,
  };
}

}  // namespace relive::cli
