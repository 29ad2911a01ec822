// What changes a task's snapshots, or the task: one at a time, under the task's lock. The commands and librelive differ
// in how they are called and in what they print; what is done is here.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "client/ask.h"
#include "rollback/protocol.h"
#include "rollback/registry.h"

namespace relive::client {

// Who asks.
struct Caller {
  std::string name;  // "relive snapshot": what others are told about who is at work on the task
  // The program that becomes the keeper (start_keeper.h); asked only where one has to be started.
  Result<std::string> (*keeper_program)() = nullptr;
  // Hears what was found on the way and is no error: a keeper that had died, files that were finished for it.
  std::function<void(const std::string&)> tell;
  int patience_ms = kForEver;  // for each answer
};

// The task that has this pid. Errors: usage, not_found, refused (a thread's id, a zombie, or the caller itself).
Result<rollback::TaskKey> task_of(model::Pid pid);
// `name`, where a snapshot can be called that. Errors: usage.
Result<std::string> snapshot_name(std::string_view name);
// The keeper stands elsewhere, and a name may lead somewhere else later: the whole path of a directory that is there,
// without symbolic links. `what` names it in the error. Errors: usage.
Result<std::string> real_directory(std::string_view what, const std::string& path);

class Session {
 public:
  // Takes the lock; gives it back when it goes. Errors: busy, and those of the registry.
  static Result<Session> begin(Caller caller, const rollback::TaskKey& key);

  // Starts a keeper where the task has none.
  Result<rollback::SnapshotReport> snapshot(const rollback::SnapshotOptions& options);
  // Writes a snapshot as an image. `directory`: absolute.
  Result<rollback::ImageReport> write_image(const std::string& name, const std::string& directory,
                                            const std::function<void(const rollback::ImageProgress&)>& progress);
  // To a snapshot or to an image, for which a task without a keeper gets one for the time that it takes. Files that a
  // keeper has left half way back are finished; its snapshots are gone, and the error (not_found) says both.
  Result<rollback::RollbackReport> go_back(const rollback::RollbackOptions& options);
  Result<rollback::DropReport> drop(const rollback::DropOptions& options);

  [[nodiscard]] const rollback::Registry& registry() const { return registry_; }

 private:
  Session(Caller caller, const rollback::TaskKey& key, rollback::Registry registry, rollback::CommandLock lock)
      : caller_(std::move(caller)), key_(key), registry_(std::move(registry)), lock_(std::move(lock)) {}
  // A keeper answers for the task from now on. A dead one's place is taken, and the caller is told.
  Result<void> ensure_keeper();

  Caller caller_;
  rollback::TaskKey key_;
  rollback::Registry registry_;
  rollback::CommandLock lock_;
};

}  // namespace relive::client
