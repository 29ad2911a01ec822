// What the engine knows of its tree. Internal: engine.cpp (what is kept), engine_take.cpp (a snapshot is taken),
// engine_go_back.cpp (the way back).
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "parasite/agreement.h"
#include "rollback/engine.h"
#include "rollback/image_in.h"
#include "rollback/kept_files.h"
#include "rollback/shared_watch.h"
#include "rollback/snapshot.h"
#include "rollback/stay.h"
#include "rollback/stopwatch.h"
#include "rollback/way_back.h"

namespace relive::rollback {

// Of those tasks that there are.
[[nodiscard]] std::vector<const model::Memory*> memories_of(std::span<const model::Task> tasks);
[[nodiscard]] std::vector<const model::Memory*> memories_of(std::span<const std::optional<model::Task>> tasks);

// 0: there is no such process.
[[nodiscard]] std::uint64_t start_time_of(model::Pid pid);

struct Engine::State {
  model::Pid pid;
  std::uint64_t start_time = 0;
  UniqueFd pidfd;
  bool nobody_lives = false;  // an image is applied, and its root is to be forked by relive itself
  Members members;
  std::optional<parasite::TreeAgreement> agreement;  // once the tree has had two tasks
  std::optional<tracking::TrackerKind> tracker;      // as the first snapshot chose
  std::vector<std::unique_ptr<Snapshot>> snapshots;
  std::uint64_t last_lease = 0;
  std::uint64_t last_snapshot = 0;  // Snapshot::number
  KeptFiles files;
  SharedWatch shared;

  [[nodiscard]] Snapshot* find(std::string_view name) const;
  // ErrorKind::not_found, naming those that there are.
  [[nodiscard]] Result<Snapshot*> require(std::string_view name) const;

  // Stops the tree. `wanted`: the snapshot whose tasks belong to it as well, whoever their parents are now.
  // `rest`: those of its tasks that are at rest need not be visited (rest.h).
  Result<std::unique_ptr<Stay>> freeze(const Snapshot* wanted, bool rest = false);

  Result<void> take(Stay& stay, Snapshot& snapshot, const SnapshotOptions& options, SnapshotReport& report,
                    Stopwatch& stopwatch);
  Result<void> take_contents(parasite::Visit& visit, Member& member, const model::Memory& memory, TaskPart& part,
                             SnapshotReport& report);
  // `arrival`: what `wanted` belongs to, where it comes from an image; else null.
  Result<void> way_back(Snapshot& wanted, Arrival* arrival, const RollbackOptions& options, RollbackReport& report);
  // Of an image: what a snapshot would hold and have, for a plan that nothing else is in the way of. What is missing is
  // in the report. Tasks that are to be forked are supplied when they have been.
  Result<void> supply(Stay& stay, Arrival& arrival, Living& living, Plan& plan, RollbackReport& report,
                      Stopwatch& stopwatch);
  Result<void> supply_forked(Stay& stay, Arrival& arrival, Living& living, Plan& plan, RollbackReport& report);
  // Reads the image and goes to it. The report has what is wrong with it.
  Result<RollbackReport> apply(const RollbackOptions& options);
  // The fate of it all, and what becomes of the tree where it was broken off.
  static Result<RollbackReport> outcome_of(Result<void> outcome, const Snapshot& wanted, const RollbackOptions& options,
                                           RollbackReport report);
  Result<void> settle(Stay& stay, const Snapshot& wanted, const Living& living, const Plan& plan);
  // What the living forest stands in: looked for only where a task of the snapshot, or a zombie, is missing.
  Result<model::Surroundings> surroundings(Stay& stay, const Snapshot& wanted, const Living& living) const;
  void forget(Snapshot& snapshot);
};

}  // namespace relive::rollback
