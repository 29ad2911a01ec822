// The directories whose files go back with a tree (files/directory.h): what the engine does with them, and what becomes
// of them when the keeper dies.
//
// Files go back behind the commit programs of all tasks and before any of them runs on. Until then their agreement has
// one share more than there are tasks (parasite/wire.h: Agreement::remaining): if the keeper dies, all tasks wait until
// somebody has finished the files, and finish_files() is that.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "diff/difference.h"
#include "files/directory.h"
#include "model/memory.h"
#include "rollback/registry.h"

namespace relive::rollback {

struct SavedDirectory {
  std::shared_ptr<files::Directory> directory;
  files::Saved saved;
};
using SavedFiles = std::vector<SavedDirectory>;  // of one snapshot

// All that a snapshot asks for.
struct FilesWanted {
  std::vector<std::string> directories;  // absolute, none below another
  std::string store;                     // empty: beside each
};

// The directories of a tree: one files::Directory for each, however many snapshots have it.
class KeptFiles {
 public:
  // REQUIRES: the tree stands still; `tasks` are all of its memories.
  Result<SavedFiles> take(const FilesWanted& wanted, const std::vector<const model::Memory*>& tasks);
  void drop(SavedFiles& saved);

 private:
  std::map<std::string, std::weak_ptr<files::Directory>> directories_;
};

// What differs, of all directories of a snapshot.
struct FilesPlan {
  std::vector<files::Look> looks;  // as SavedFiles
  std::vector<diff::Refusal> refusals;
  std::vector<std::string> texts;
  [[nodiscard]] bool empty() const;
};

Result<FilesPlan> look_at_files(const SavedFiles& saved, const std::vector<const model::Memory*>& tasks);
std::vector<diff::Difference> file_differences(const SavedFiles& saved, const FilesPlan& plan);

// Opens the journals. After a failure they are closed.
Result<void> prepare_files(const SavedFiles& saved, const FilesPlan& plan);
void cancel_files(const SavedFiles& saved);
Result<files::Done> put_back_files(SavedFiles& saved, const FilesPlan& plan);

// Where a keeper that had files has died in a rollback: finishes the files if the tasks wait for them, lets the tasks
// go on, and tells what was done. Empty: nothing was to be done.
Result<std::string> finish_files(const Registry& registry, const TaskKey& key);

}  // namespace relive::rollback
