// From the living tree to a snapshot: diff, plan, check, prepare, commit (docs/life-of-a-rollback.md).
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "capture/threads.h"
#include "diff/descriptors.h"
#include "diff/memory.h"
#include "diff/process.h"
#include "diff/threads.h"
#include "diff/tree.h"
#include "parasite/agreement.h"
#include "rollback/blank.h"
#include "rollback/shared_watch.h"
#include "rollback/snapshot.h"
#include "rollback/stay.h"
#include "rollback/stopwatch.h"
#include "tracking/page_map.h"

namespace relive::rollback {

// For Stay::visit_all: what the spare addresses and numbers of a visit must leave free, which is all that the snapshot
// wants.
void keep_clear(parasite::Visit& visit, const Snapshot& wanted);

// The tree as it is now, beside the tasks of a snapshot, in their order.
struct Living {
  std::vector<std::optional<model::Task>> tasks;  // nothing: it does not live
  std::vector<bool> at_rest;                      // it is as the snapshot has it: not looked at, not planned for
  std::vector<tracking::Ranges> changed;          // what the tracker says
  SharedWatch::Sound sound;                       // shared memory that nobody has written: it is not compared
  model::DescriptorTable descriptors;
  model::Forest forest;
};

// Reads the tasks of `wanted` that live (blank ones too), all descriptors and the forest.
Result<Living> look(Stay& stay, const Snapshot& wanted, SharedWatch& shared, capture::Depth depth,
                    Stopwatch& stopwatch);

// Every family's plan. Pure.
struct TaskPlan {
  diff::ThreadPlan threads;
  diff::MemoryPlan memory;
  diff::ProcessPlan process;
  tracking::PagePlan pages;
  std::size_t changed_threads = 0;
};
struct Plan {
  diff::TreePlan tree;
  std::vector<std::optional<TaskPlan>> tasks;  // as Living::tasks; nothing for those at rest, too
  diff::DescriptorPlan descriptors;
  BlankPlan blanks;
  std::vector<model::Pid> pids;  // of the snapshot's tasks

  [[nodiscard]] std::vector<diff::Refusal> refusals() const;
  [[nodiscard]] std::vector<diff::Difference> differences() const;
  [[nodiscard]] std::vector<std::string> notes() const;
  [[nodiscard]] std::vector<std::string> texts() const;  // the operations, in order, for --dry-run
  [[nodiscard]] bool alone() const { return pids.size() == 1; }
};

// REQUIRES: `living` outlives the plan.
Plan make_plan(Stay& stay, const Snapshot& wanted, const Living& living, const model::Surroundings& surroundings);

// Tasks at rest that the plan needs after all: visits them and reads them, and the descriptors again. false: there were
// none; else the plan is to be made again (plan_again), and then this called again.
Result<bool> wake(Stay& stay, const Snapshot& wanted, Living& living, const Plan& plan,
                  std::optional<parasite::TreeAgreement>& agreement, capture::Depth depth, Stopwatch& stopwatch);
// Completes a plan whose tree is known: for tasks that have none yet, and descriptors.
void plan_again(Stay& stay, const Snapshot& wanted, const Living& living, Plan& plan);
// Plans the pages again, and nothing else: more is known of them now.
void plan_pages(Stay& stay, const Snapshot& wanted, const Living& living, Plan& plan);

// What a way back has done, for the engine.
struct Passage {
  bool committed = false;  // behind the point of no return
  bool broken = false;     // ... and the kernel has broken it off: no task may run again
  // What else has to be done before the tasks may run on, should the keeper die: nobody else does it (kept_files.h).
  std::uint32_t shares_of_others = 0;
  bool irreversible = false;  // a living task was killed so that its number is free: a failure cannot be undone
};

// What has to be seen to where tasks were forked, for an image: behind a look at them, before they are planned for,
// what the image does not tell (`complete`); behind the plan, what it needs besides (`supply`: files and pages).
struct Arrivals {
  std::function<void(const Living& living)> complete;
  std::function<Result<void>(Living& living, Plan& plan)> supply;
};

// Forks what is missing, prepares and commits. On an error with committed == false the stay undoes everything when it
// ends. On success every thread stands before its goal: call Stay::depart(). `living` and `plan` end up with the tasks
// that were forked in them.
Result<void> carry_out(Stay& stay, const Snapshot& wanted, Living& living, Plan& plan, Members& members,
                       std::optional<parasite::TreeAgreement>& agreement, Passage& passage,
                       std::vector<std::string>& notes, Stopwatch& stopwatch, const Arrivals* arrivals);

}  // namespace relive::rollback
