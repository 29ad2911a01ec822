// Who exists: carries out what diff/tree.h has planned, in the hands of the tasks themselves.
#pragma once

#include <optional>
#include <vector>

#include "base/result.h"
#include "diff/tree.h"
#include "parasite/agreement.h"
#include "rollback/stay.h"

namespace relive::rollback {

// What of a plan this release has no hands for, by name.
[[nodiscard]] std::vector<diff::Refusal> not_carried_out(const diff::TreePlan& plan);

// Prepare. Carries out the undoable steps: blank tasks are forked, infected, visited, and stand in Stay::blanks with
// the page store and a tracker of the member that they are to be. A failure is undone when the stay ends.
Result<void> fork_tasks(Stay& stay, const diff::TreePlan& plan, Members& members,
                        std::optional<parasite::TreeAgreement>& agreement);

// Prepare: the commit program of a task that stays kills the children that it has had since, and waits for them, so
// that it can do so alone.
Result<void> end_children(Stay& stay, const diff::TreePlan& plan, model::Pid parent, parasite::Visit& visit,
                          parasite::Program& commit);
// Will children of the task, or tasks that it is to inherit, end in this plan? Then signals of their end come to it.
[[nodiscard]] bool loses_children(const diff::TreePlan& plan, model::Pid parent);

// Commit: kills what is to end, in the plan's order.
void end_tasks(Stay& stay, const diff::TreePlan& plan);

}  // namespace relive::rollback
