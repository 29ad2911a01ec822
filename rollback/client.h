// The command's side of the keeper's socket.
#pragma once

#include <functional>
#include <string>
#include <variant>

#include "base/result.h"
#include "rollback/protocol.h"
#include "rollback/registry.h"

namespace relive::rollback {

// Asks the task's keeper and waits for its answer. Errors of the engine come back as they are; besides:
//   not_found  the task has no keeper, or its keeper is gone (Registry::connect)
//   system     the keeper died in the middle of the request: the text says what became of the task. A rollback whose
//   task
//              was left stopped is not an error but a report with Fate::stopped.
Result<Answer> ask(const Registry& registry, const Request& request);

// The same for an image, which takes its time: `progress` hears how far it is.
Result<ImageReport> ask_for_image(const Registry& registry, const Request& request,
                                  const std::function<void(const ImageProgress&)>& progress);

// The same for one kind of report.
template <class Report>
Result<Report> ask_for(const Registry& registry, const Request& request) {
  Answer answer = RELIVE_TRY(ask(registry, request));
  if (auto* report = std::get_if<Report>(&answer)) return std::move(*report);
  return fail(ErrorKind::system, "the keeper answered something else than what it was asked");
}

// Starts a keeper for the task: a process of its own that holds nothing of the caller's (terminal, descriptors,
// directory, session) and outlives it. Returns when it listens, or with the reason why it could not begin. REQUIRES:
// the program that calls this is relive (the keeper is /proc/self/exe again).
Result<void> start_keeper(const TaskKey& key);

}  // namespace relive::rollback
