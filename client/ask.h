// The client's side of the keeper's socket: one request, its answer. The commands and librelive both ask through here.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <variant>

#include "base/result.h"
#include "rollback/protocol.h"
#include "rollback/registry.h"

namespace relive::client {

// How long an answer may take, in milliseconds.
inline constexpr int kForEver = -1;

// A request to the keeper of `key`, carrying RELIVE_FAULT of the environment.
rollback::Request request(const rollback::TaskKey& key, decltype(rollback::Request::command) command);

// Asks the task's keeper and waits for its answer. Errors of the engine come back as they are; besides:
//   not_found  the task has no keeper, or its keeper is gone (Registry::connect)
//   busy       with ETIMEDOUT: the answer takes longer than `patience_ms`; the keeper goes on with what it was asked
//   system     the keeper died in the middle of the request: the text says what became of the task. A rollback whose
//   task
//              was left stopped is not an error but a report with Fate::stopped.
Result<rollback::Answer> ask(const rollback::Registry& registry, const rollback::Request& request,
                             int patience_ms = kForEver);

// The same for an image, which takes its time: `progress` hears how far it is.
Result<rollback::ImageReport> ask_for_image(const rollback::Registry& registry, const rollback::Request& request,
                                            const std::function<void(const rollback::ImageProgress&)>& progress);

// The same for one kind of report.
template <class Report>
Result<Report> ask_for(const rollback::Registry& registry, const rollback::Request& request,
                       int patience_ms = kForEver) {
  rollback::Answer answer = RELIVE_TRY(ask(registry, request, patience_ms));
  if (auto* report = std::get_if<Report>(&answer)) return std::move(*report);
  return fail(ErrorKind::system, "the keeper answered something else than what it was asked");
}

}  // namespace relive::client
