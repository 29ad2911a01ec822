#include "rollback/show.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>

namespace relive::rollback {

namespace {

std::string access_text(const model::Mapping& mapping) {
  std::string out;
  out += mapping.readable ? 'r' : '-';
  out += mapping.writable ? 'w' : '-';
  out += mapping.executable ? 'x' : '-';
  out += mapping.shared ? 's' : 'p';
  return out;
}

std::vector<ShownValue> process_values(const model::Process& process) {
  const auto handlers = std::ranges::count_if(process.actions, [](const auto& action) { return action.handler > 1; });
  const auto running =
      std::ranges::count_if(process.interval_timers, [](const auto& timer) { return timer.left_us != 0; });
  const auto open_files = process.limits[RLIMIT_NOFILE];
  return {
      {"executable", process.executable},
      {"cwd", process.cwd.path},
      {"root", process.root.path},
      {"umask", fmt::format("{:04o}", process.umask)},
      {"open files limit", fmt::format("{} of {}", open_files.soft, open_files.hard)},
      {"signal handlers", fmt::format("{}", handlers)},
      {"pending signals", fmt::format("{}", process.pending.size())},
      {"interval timers", fmt::format("{} running", running)},
      {"POSIX timers", fmt::format("{}", process.timers.size())},
  };
}

ShownTask shown_task(const model::Task& task, const model::DescriptorTable& descriptors) {
  ShownTask shown;
  shown.pid = task.pid;
  shown.parent = {task.process.parent};
  if (!task.threads.empty()) shown.name = task.threads.front().name;
  for (const auto& thread : task.threads)
    shown.threads.push_back({thread.tid, thread.name, thread.registers.rip, thread.registers.rsp, thread.signal_mask,
                             thread.pending.size()});
  for (const auto& mapping : task.memory.mappings)
    shown.mappings.push_back({mapping.range, access_text(mapping), mapping.offset, mapping.name});
  for (const auto& descriptor : descriptors.descriptors) {
    if (descriptor.fd.table != static_cast<int>(task.table)) continue;
    if (descriptor.open_file >= descriptors.open_files.size()) continue;
    model::Words words = model::words_of(descriptors.open_files[descriptor.open_file].object);
    shown.descriptors.push_back(
        {descriptor.fd.value, std::move(words.kind), std::move(words.detail), descriptor.close_on_exec});
  }
  shown.process = process_values(task.process);
  return shown;
}

}  // namespace

ShowReport show(const SnapshotInfo& info, const model::Tree& tree) {
  ShowReport report{.info = info, .tasks = {}};
  for (const model::Task& task : tree.tasks) report.tasks.push_back(shown_task(task, tree.descriptors));
  return report;
}

SnapshotInfo image_info(const image::ImagedTask& task) {
  SnapshotInfo info;
  info.pid = task.task.pid;
  info.threads = task.task.threads.size();
  info.mappings = task.task.memory.mappings.size();
  info.pages = image::count_pages(task.pages);
  info.descriptors = task.descriptors.descriptors.size();
  if (!task.task.threads.empty()) info.command = task.task.threads.front().name;
  return info;
}

ShowReport show(const image::ImagedTask& task) {
  return {.info = image_info(task), .tasks = {shown_task(task.task, task.descriptors)}};
}

}  // namespace relive::rollback
