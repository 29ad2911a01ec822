// The engine: a tree's snapshots and the way back to them. The keeper wraps it; tests use it directly.
//
// REQUIRES: all calls from one OS thread (ptrace). Between calls the tasks run and nobody is attached to them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "apply/outcome.h"
#include "base/result.h"
#include "diff/difference.h"
#include "model/tree.h"
#include "rollback/kept_files.h"
#include "rollback/stopwatch.h"
#include "tracking/tracker.h"

namespace relive::rollback {

enum class OnFailure : std::uint8_t { stop, kill };

struct SnapshotInfo {
  std::string name;
  model::Pid pid;
  std::int64_t created_ns = 0;  // CLOCK_REALTIME
  std::uint64_t tasks = 1;
  std::uint64_t threads = 0;
  std::uint64_t mappings = 0;
  std::uint64_t pages = 0;  // pages with contents of their own
  std::uint64_t descriptors = 0;
  std::string tracker;
  std::string command;                        // comm of the task
  std::vector<std::string> directories = {};  // whose files go back with it
  std::uint64_t files = 0;                    // regular files in them
  std::uint64_t file_bytes = 0;               // in those
};

struct SnapshotReport {
  SnapshotInfo info;
  std::uint64_t frozen_us = 0;
  std::uint64_t pages_copied = 0;
  std::uint64_t faults_passed = 0;
};

struct RollbackReport {
  apply::Fate fate = apply::Fate::untouched;
  std::uint64_t frozen_us = 0;  // first thread stopped to last one let go
  std::uint64_t tasks = 1;
  std::uint64_t at_rest = 0;      // of these: had not run since relive let them go, and were not looked at (rest.h)
  std::uint64_t threads = 0;      // threads changed, made or ended
  std::uint64_t pages = 0;        // pages put back
  std::uint64_t mappings = 0;     // mapping operations
  std::uint64_t descriptors = 0;  // descriptor operations
  std::uint64_t files = 0;        // files put back, and removed
  std::uint64_t file_bytes = 0;   // written into them
  std::string tracker;
  std::vector<Stage> stages;
  std::vector<std::string> notes;
  std::vector<diff::Refusal> refusals;  // why untouched
  std::optional<Error> error;           // what failed, if not a refusal
  std::vector<std::string> plan;        // --dry-run: the operations as text
  std::string dot;                      // --dry-run: how tasks are made and ended, as a Graphviz text (diff/tree.h)
  std::uint64_t faults_passed = 0;
};

struct DiffReport {
  std::vector<diff::Difference> differences;
  std::vector<diff::Refusal> refusals;
  std::uint64_t frozen_us = 0;
};

struct SnapshotOptions {
  std::string name;  // REQUIRES: not empty
  bool replace = false;
  std::optional<tracking::TrackerKind> tracker;  // first snapshot of a task only
  FilesWanted files = {};                        // what of the file system goes back, too
  // Unread events of inotify instances may be taken out of their queues for a moment, to be remembered: should relive
  // be killed in that moment they are lost (docs/failure-model.md). false: with such events it is refused.
  bool take_events = false;
};

struct RollbackOptions {
  std::string name{};   // of a snapshot, or else ...
  std::string image{};  // ... the directory of an image, absolute
  bool dry_run = false;
  OnFailure on_failure = OnFailure::stop;
};

struct SnapshotParts;

class Engine {
 public:
  // Looks at the task, does not stop it. Errors: as FrozenTask::freeze.
  static Result<std::unique_ptr<Engine>> open(model::Pid pid);
  ~Engine();

  Result<SnapshotReport> snapshot(const SnapshotOptions& options);
  // To a snapshot, or to an image. An unknown name or a task that is gone is an Error; everything that happened to the
  // task is in the report.
  Result<RollbackReport> rollback(const RollbackOptions& options);
  // To an image of which nothing lives: relive forks its root, which executes its program and is then gone to like any
  // other task; the rest are forked by each other. They are children of the calling process, and go on when it ends.
  // Nothing of relive's stays in them. Errors, and what is refused, as for rollback(): then nothing lives, as before.
  // REQUIRES: a single thread.
  struct Restored {
    model::Pid root;
    RollbackReport report;
  };
  static Result<Restored> restore(const RollbackOptions& options);
  Result<DiffReport> diff(std::string_view name);
  [[nodiscard]] std::vector<SnapshotInfo> list() const;
  [[nodiscard]] const model::Tree* find(std::string_view name) const;
  // What an image of a snapshot is made of (rollback/image_out.h), as it is until the next call. Pages that are read
  // beyond it, by another process, stay for as long as they are leased.
  Result<SnapshotParts> parts(std::string_view name) const;
  std::uint64_t lease(std::string_view name);
  void end_lease(std::uint64_t lease);
  // Forgets a snapshot. With the last one the parasite, tracker and store leave the task (clean cure).
  Result<void> drop(std::string_view name);
  Result<void> drop_all();

  [[nodiscard]] model::Pid pid() const;
  [[nodiscard]] int pidfd() const;  // readable when the task has ended

 private:
  struct State;
  Result<RollbackReport> apply(const RollbackOptions& options);
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace relive::rollback
