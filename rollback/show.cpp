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

std::vector<ShownValue> process_values(const model::Task& task) {
  const model::Process& process = task.process;
  const auto handlers = std::ranges::count_if(process.actions, [](const auto& action) { return action.handler > 1; });
  const auto running =
      std::ranges::count_if(process.interval_timers, [](const auto& timer) { return timer.left_us != 0; });
  const auto open_files = process.limits[RLIMIT_NOFILE];
  return {
      {task.pid, "executable", process.executable},
      {task.pid, "cwd", process.cwd.path},
      {task.pid, "root", process.root.path},
      {task.pid, "umask", fmt::format("{:04o}", process.umask)},
      {task.pid, "open files limit", fmt::format("{} of {}", open_files.soft, open_files.hard)},
      {task.pid, "signal handlers", fmt::format("{}", handlers)},
      {task.pid, "pending signals", fmt::format("{}", process.pending.size())},
      {task.pid, "interval timers", fmt::format("{} running", running)},
      {task.pid, "POSIX timers", fmt::format("{}", process.timers.size())},
  };
}

}  // namespace

ShowReport show(const SnapshotInfo& info, const model::Tree& tree) {
  ShowReport report;
  report.info = info;
  for (const model::Task& task : tree.tasks) {
    for (const auto& thread : task.threads)
      report.threads.push_back({task.pid, thread.tid, thread.name, thread.registers.rip, thread.registers.rsp,
                                thread.signal_mask, thread.pending.size()});
    for (const auto& mapping : task.memory.mappings)
      report.mappings.push_back({task.pid, mapping.range, access_text(mapping), mapping.offset, mapping.name});
    for (const auto& descriptor : tree.descriptors.descriptors) {
      if (descriptor.fd.table != static_cast<int>(task.table)) continue;
      model::Words words = model::words_of(tree.descriptors.open_files.at(descriptor.open_file).object);
      report.descriptors.push_back(
          {task.pid, descriptor.fd.value, std::move(words.kind), std::move(words.detail), descriptor.close_on_exec});
    }
    for (ShownValue& value : process_values(task)) report.process.push_back(std::move(value));
  }
  return report;
}

}  // namespace relive::rollback
