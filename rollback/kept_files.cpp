#include "rollback/kept_files.h"

#include <fmt/format.h>

#include <time.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "parasite/stranded.h"
#include "task/frozen_tree.h"

namespace relive::rollback {

namespace {

constexpr int kTries = 5000;
constexpr long kPauseNs = 1'000'000;

files::Suspects written_by_mappings(const std::vector<const model::Memory*>& tasks) {
  files::Suspects inodes;
  for (const model::Memory* const memory : tasks)
    for (const model::Mapping& mapping : memory->mappings)
      if (mapping.shared && mapping.inode != 0 && (mapping.writable || mapping.marks.may_write))
        inodes.insert(mapping.inode);
  return inodes;
}

Result<void> none_below_another(const std::vector<std::string>& directories) {
  for (const std::string& one : directories)
    for (const std::string& other : directories)
      if (&one != &other && (one == other || other.starts_with(one == "/" ? one : one + "/")))
        return fail(ErrorKind::usage, fmt::format("--files {} lies in --files {}", other, one), "name the upper one");
  return {};
}

}  // namespace

Result<SavedFiles> KeptFiles::take(const FilesWanted& wanted, const std::vector<const model::Memory*>& tasks) {
  RELIVE_TRY(none_below_another(wanted.directories));
  const files::Suspects mapped = written_by_mappings(tasks);
  SavedFiles all;
  for (const std::string& path : wanted.directories) {
    auto one = [&]() -> Result<SavedDirectory> {
      std::shared_ptr<files::Directory> directory = directories_[path].lock();
      if (!directory) {
        directory = RELIVE_TRY(files::Directory::open(path, wanted.store));
        directories_[path] = directory;
      }
      return SavedDirectory{directory, RELIVE_TRY(directory->take(mapped))};
    }();
    if (!one) {
      drop(all);
      return std::unexpected(std::move(one).error());
    }
    all.push_back(*std::move(one));
  }
  return all;
}

void KeptFiles::drop(SavedFiles& saved) {
  for (const SavedDirectory& one : saved) one.directory->drop(one.saved);
  saved.clear();
  std::erase_if(directories_, [](const auto& known) { return known.second.expired(); });
}

bool FilesPlan::empty() const {
  return std::ranges::all_of(looks, [](const files::Look& look) { return look.work.steps.empty(); });
}

Result<FilesPlan> look_at_files(const SavedFiles& saved, const std::vector<const model::Memory*>& tasks) {
  const files::Suspects mapped = written_by_mappings(tasks);
  FilesPlan plan;
  for (const SavedDirectory& one : saved) {
    const std::string& path = one.directory->path();
    files::Look look = RELIVE_TRY(one.directory->look(one.saved, mapped));
    for (const files::Obstacle& obstacle : look.obstacles)
      plan.refusals.push_back({files::join(path, obstacle.path), obstacle.reason, obstacle.hint});
    for (const files::Step& step : look.work.steps) plan.texts.push_back(fmt::format("{}: {}", path, text(step)));
    plan.looks.push_back(std::move(look));
  }
  return plan;
}

std::vector<diff::Difference> file_differences(const SavedFiles& saved, const FilesPlan& plan) {
  std::vector<diff::Difference> out;
  for (std::size_t index = 0; index < saved.size(); ++index)
    for (const files::Change& change : saved[index].directory->changes(saved[index].saved, plan.looks[index])) {
      const diff::Sign sign = change.sign == files::Sign::added     ? diff::Sign::added
                              : change.sign == files::Sign::removed ? diff::Sign::removed
                                                                    : diff::Sign::changed;
      out.push_back({.family = diff::Family::file, .sign = sign, .object = "file " + change.path, .text = change.text});
    }
  return out;
}

Result<void> prepare_files(const SavedFiles& saved, const FilesPlan& plan) {
  for (std::size_t index = 0; index < saved.size(); ++index) {
    auto prepared = saved[index].directory->prepare(saved[index].saved, plan.looks[index]);
    if (prepared) continue;
    cancel_files(saved);
    return prepared;
  }
  return {};
}

void cancel_files(const SavedFiles& saved) {
  for (const SavedDirectory& one : saved) one.directory->cancel();
}

Result<files::Done> put_back_files(SavedFiles& saved, const FilesPlan& plan) {
  files::Done all;
  for (std::size_t index = 0; index < saved.size(); ++index) {
    const auto done = RELIVE_TRY(saved[index].directory->put_back(saved[index].saved, plan.looks[index]));
    all.files += done.files;
    all.bytes += done.bytes;
  }
  return all;
}

Result<std::string> finish_files(const Registry& registry, const TaskKey& key) {
  const auto directories = registry.files_of(key);
  if (directories.empty()) return {};
  std::optional<model::TaskAddress> waiting;
  const Standing stands = standing(key);
  if (stands != Standing::gone && stands != Standing::zombie) waiting = RELIVE_TRY(parasite::waits_for_others(key.pid));
  // Its socket is closed before it is gone.
  const auto still_ending = [](const Registry::FilesOf& one) {
    return files::Directory::has_journal(one.directory, one.store) &&
           !files::Directory::unfinished(one.directory, one.store);
  };
  const timespec pause{.tv_sec = 0, .tv_nsec = kPauseNs};
  for (int tries = 0; std::ranges::any_of(directories, still_ending); ++tries) {
    if (tries == kTries)
      return fail(ErrorKind::busy, fmt::format("the keeper of {} hangs in a rollback", key.pid.value), "try again");
    ::nanosleep(&pause, nullptr);
  }
  files::Done all;
  bool unfinished = false;
  using Others = files::Directory::Others;
  for (const auto& one : directories) {
    unfinished = unfinished || files::Directory::unfinished(one.directory, one.store);
    const auto done =
        RELIVE_TRY(files::Directory::finish(one.directory, one.store, waiting ? Others::wait : Others::run));
    all.files += done.files;
    all.bytes += done.bytes;
  }
  if (waiting) {
    RELIVE_TRY(parasite::let_go(key.pid, *waiting));
    task::FrozenTree tree = RELIVE_TRY(task::FrozenTree::freeze(key.pid));  // wakes them
    tree.resume();
  }
  registry.forget_files(key);
  if (!waiting && (!unfinished || all.files == 0)) return {};
  return fmt::format("the keeper of {} had died in a rollback; that one is finished now: {} files{}", key.pid.value,
                     all.files, waiting ? ", and the task runs on at its snapshot" : "");
}

}  // namespace relive::rollback
