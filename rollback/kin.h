// Who exists: carries out what diff/tree.h has planned, in the hands of the tasks themselves.
#pragma once

#include <optional>
#include <set>
#include <vector>

#include "base/result.h"
#include "diff/tree.h"
#include "parasite/agreement.h"
#include "rollback/snapshot.h"
#include "rollback/stay.h"

namespace relive::rollback {

// What of a plan this release has no hands for, by name.
[[nodiscard]] std::vector<diff::Refusal> not_carried_out(const diff::TreePlan& plan);

// What the tables will hold when fork_tasks() is done, as far as it can be told before: those of tasks that it kills
// are gone, blank tasks have their parents'. `living`: as look() has read them. What cannot be had then is refused now.
[[nodiscard]] model::DescriptorTable foresee_descriptors(Stay& stay, const Snapshot& wanted, const diff::TreePlan& plan,
                                                         const std::set<model::Pid>& executing,
                                                         const model::DescriptorTable& living);

// Prepare. Carries out the undoable steps, and those that make numbers free for tasks that must have them again: blank
// tasks are forked, infected, visited, and stand in Stay::blanks with the page store and a tracker of the member that
// they are to be. Those in `executing` have executed their program (rollback/blank.h). A failure is undone when the
// stay ends, unless `irreversible` is set: a living task had to be killed.
Result<void> fork_tasks(Stay& stay, const Snapshot& wanted, const diff::TreePlan& plan,
                        const std::set<model::Pid>& executing, Members& members,
                        std::optional<parasite::TreeAgreement>& agreement, bool& irreversible);

// Prepare: the commit program of a task that stays kills the children that it has had since, and waits for them, so
// that it can do so alone.
Result<void> end_children(Stay& stay, const diff::TreePlan& plan, model::Pid parent, parasite::Visit& visit,
                          parasite::Program& commit);
// May signals come to the task from what this plan does? Those of its children's ends, or of tasks that it is to
// inherit; and SIGHUP, where a group with a stopped member may be orphaned.
[[nodiscard]] bool gets_signals(Stay& stay, const diff::TreePlan& plan, model::Pid task);

// Commit: blank tasks that are to be zombies end. As Visit::stage(), unstage(), carry_out(), for all of them.
class Endings {
 public:
  Endings(Stay& stay, const diff::TreePlan& plan) : stay_(stay), plan_(plan) {}
  Result<void> stage();
  void unstage();
  void carry_out();

 private:
  Stay& stay_;
  const diff::TreePlan& plan_;
  std::vector<Stay::Blank*> staged_;
};

// Commit: kills what is to end, in the plan's order.
void end_tasks(Stay& stay, const diff::TreePlan& plan);

}  // namespace relive::rollback
