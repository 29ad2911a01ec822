#include "rollback/living.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "capture/descriptors.h"
#include "capture/memory.h"
#include "capture/process.h"
#include "capture/threads.h"

namespace relive::rollback {

Result<model::Task> read_task(parasite::Visit& visit, const KnownMemory* known, std::string_view maps_text,
                              capture::Depth depth, Stopwatch& stopwatch) {
  model::Task task;
  task.pid = visit.task().pid();
  task.start_time = visit.task().start_time();
  task.threads = RELIVE_TRY(with_context(capture::read_threads(visit, depth), "reading threads"));
  stopwatch.lap("capture threads");
  task.process = RELIVE_TRY(with_context(capture::read_process(visit), "reading the process"));
  stopwatch.lap("capture process");
  auto memory = known == nullptr ? capture::read_memory(visit)
                                 : capture::read_memory_again(visit, known->memory, known->maps_text, maps_text);
  task.memory = RELIVE_TRY(with_context(std::move(memory), "reading mappings"));
  stopwatch.lap("capture memory");
  return task;
}

Result<model::DescriptorTable> read_descriptors(parasite::Visit& visit, const model::DescriptorTable* snapshot,
                                                const capture::FileHolds* holds, Stopwatch& stopwatch) {
  parasite::Visit* const tables[] = {&visit};
  auto table = with_context(capture::read_descriptors(tables, snapshot, holds), "reading descriptors");
  stopwatch.lap("capture descriptors");
  return table;
}

Result<void> refuse_children(const model::Task& task) {
  const auto& children = task.process.children;
  if (children.empty()) return {};
  return fail(ErrorKind::refused,
              fmt::format("task {} has child processes: {}", task.pid.value, fmt::join(children, " ")),
              "this release rolls back one process; wait until the children have ended");
}

}  // namespace relive::rollback
