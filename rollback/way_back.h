// From the living task to a snapshot: diff, plan, check, prepare, commit (docs/life-of-a-rollback.md).
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "diff/descriptors.h"
#include "diff/memory.h"
#include "diff/process.h"
#include "diff/threads.h"
#include "parasite/session.h"
#include "rollback/snapshot.h"
#include "rollback/stopwatch.h"
#include "tracking/page_map.h"
#include "tracking/page_store.h"

namespace relive::rollback {

// Every family's plan. Pure.
struct Plan {
  diff::ThreadPlan threads;
  diff::MemoryPlan memory;
  diff::DescriptorPlan descriptors;
  diff::ProcessPlan process;
  tracking::PagePlan pages;

  [[nodiscard]] std::vector<diff::Refusal> refusals() const;
  [[nodiscard]] std::vector<diff::Difference> differences() const;
  [[nodiscard]] std::vector<std::string> texts() const;  // the operations, in order, for --dry-run
};

// `changed`: what the tracker says; `current`: which version of each page is in place.
Plan make_plan(const Snapshot& wanted, const model::Task& living, const model::DescriptorTable& living_descriptors,
               const tracking::Ranges& changed, const tracking::PageMap& current);

// Prepares and commits. On an error with visit.committed() == false the visit undoes everything when it ends; with
// visit.broken() the task must never run again. On success every thread stands before its goal: call visit.depart().
Result<void> carry_out(parasite::Visit& visit, const Plan& plan, const Snapshot& wanted, const model::Task& living,
                       const model::DescriptorTable& living_descriptors, const tracking::PageStore& store,
                       std::vector<std::string>& notes, Stopwatch& stopwatch);

}  // namespace relive::rollback
