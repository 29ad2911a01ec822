#include "rollback/living.h"

#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>

#include <fmt/format.h>

#include "capture/descriptors.h"
#include "capture/memory.h"
#include "capture/process.h"
#include "capture/threads.h"
#include "task/procfs.h"

namespace relive::rollback {

Result<model::Task> read_task(parasite::Visit& visit, const model::Task* snapshot, const capture::Holds* holds,
                              const KnownMemory* known, std::string_view maps_text, capture::Depth depth,
                              Stopwatch& stopwatch) {
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
  task.descriptors = RELIVE_TRY(
      with_context(capture::read_descriptors(visit, snapshot != nullptr ? &snapshot->descriptors : nullptr, holds),
                   "reading descriptors"));
  stopwatch.lap("capture descriptors");
  return task;
}

Result<void> refuse_company(parasite::Visit& visit) {
  parasite::Program program;
  const parasite::ArenaPiece info = RELIVE_TRY(visit.arena().take(128));
  // Asked inside: it answers for the children of every thread, zombies too, and ECHILD means that there is none.
  const std::size_t asked =
      program.syscall("waitid", SYS_waitid, {P_ALL, 0, info.there.value, WEXITED | WNOHANG | WNOWAIT | __WALL, 0},
                      parasite::Program::OnError::go_on);
  RELIVE_TRY(visit.run(program));
  if (program.result(asked) == -ECHILD) return {};
  const model::Pid pid = visit.task().pid();
  std::string children;
  for (const task::FrozenThread& thread : visit.task().threads()) {
    auto text = task::read_proc(pid, fmt::format("task/{}/children", thread.tid.value));
    if (text) children += *text;
  }
  while (!children.empty() && (children.back() == ' ' || children.back() == '\n')) children.pop_back();
  return fail(ErrorKind::refused,
              fmt::format("task {} has child processes{}{}", pid.value, children.empty() ? "" : ": ", children),
              "this release rolls back one process; wait until the children have ended");
}

}  // namespace relive::rollback
