// Threads go back: made anew with their ids, ended, or set to where they were.
#pragma once

#include <vector>

#include "apply/workshop.h"
#include "base/result.h"
#include "diff/threads.h"
#include "model/thread.h"
#include "tracking/page_map.h"

namespace relive::apply {

// Makes the missing threads (parked, undone with the visit) and puts scheduling back, which the kernel may refuse.
Result<void> prepare_threads(Workshop& workshop, const diff::ThreadPlan& plan, const std::vector<model::Thread>& wanted,
                             const std::vector<model::Thread>& living);

// The kernel's words in each thread's rseq area (cpu, node, concurrency id) are of now, not of the snapshot: kept
// across the copying of pages. Call the first before and the second behind the operations that write memory.
class RseqKeeper {
 public:
  static Result<RseqKeeper> save(Workshop& workshop, const std::vector<model::Thread>& wanted,
                                 const std::vector<model::Thread>& living, const tracking::PagePlan& pages);
  void restore(Workshop& workshop) const;

 private:
  struct Area {
    std::uint64_t area = 0;
    std::uint64_t saved = 0;  // in the arena, task address
  };
  std::vector<Area> areas_;
};

// The goal of every thread that stands frozen, for Visit::commit. `wanted` must outlive the goals.
// driver_signals_taken: the commit program takes the driver's own pending signals away together with the task's
// (apply/process.h). dumpable: what the task is to be, which a thread that gives up rights has to say again.
Result<std::vector<parasite::ThreadGoal>> thread_goals(parasite::Visit& visit, const diff::ThreadPlan& plan,
                                                       const std::vector<model::Thread>& wanted,
                                                       const std::vector<model::Thread>& living,
                                                       bool driver_signals_taken, std::int32_t dumpable);

}  // namespace relive::apply
