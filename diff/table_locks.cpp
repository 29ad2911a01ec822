#include "diff/table_locks.h"

#include <fcntl.h>

#include <algorithm>
#include <map>
#include <set>

namespace relive::diff {

namespace {

using model::DescriptorTable;
using model::FileIdentity;
using model::FileLock;
using model::LockKind;
using model::LockMode;
using model::OpenFile;
using model::RemoteFd;

constexpr LockKind kOfDescription[] = {LockKind::flock, LockKind::open_file, LockKind::lease};

std::vector<std::vector<RemoteFd>> numbers_by_file(const DescriptorTable& table) {
  std::vector<std::vector<RemoteFd>> numbers(table.open_files.size());
  for (const model::Descriptor& descriptor : table.descriptors) numbers[descriptor.open_file].push_back(descriptor.fd);
  return numbers;
}

// Of what POSIX locks can stand on.
std::optional<FileIdentity> identity_of(const OpenFile& file) {
  return std::visit(
      [](const auto& object) -> std::optional<FileIdentity> {
        if constexpr (requires { object.identity.inode; }) return object.identity;
        return std::nullopt;
      },
      file.object);
}

std::map<FileIdentity, std::vector<FileLock>> posix_locks(const DescriptorTable& table) {
  std::map<FileIdentity, std::vector<FileLock>> locks;
  for (const OpenFile& file : table.open_files) {
    const auto identity = identity_of(file);
    if (!identity) continue;
    for (const FileLock& lock : file.locks)
      if (lock.kind == LockKind::posix) locks[*identity].push_back(lock);
  }
  return locks;
}

// May a lock in this mode be taken through it? (fcntl(2), EBADF)
bool allows(const OpenFile& file, LockMode mode) {
  if ((file.status_flags & O_PATH) != 0) return false;
  const auto access = file.status_flags & O_ACCMODE;
  return mode == LockMode::none || access == O_RDWR || access == (mode == LockMode::read ? O_RDONLY : O_WRONLY);
}

class LockPlanner {
 public:
  LockPlanner(const DescriptorTable& wanted, const DescriptorTable& living,
              const std::vector<std::optional<std::size_t>>& living_of)
      : wanted_(wanted),
        living_(living),
        living_of_(living_of),
        wanted_numbers_(numbers_by_file(wanted)),
        living_numbers_(numbers_by_file(living)) {}

  TableLocks plan() {
    for (std::size_t file = 0; file < wanted_.open_files.size(); ++file)
      if (!wanted_numbers_[file].empty()) plan_description(file);
    plan_posix();
    return std::move(plan_);
  }

 private:
  [[nodiscard]] std::optional<RemoteFd> living_number(std::size_t file) const {
    if (!living_of_[file]) return std::nullopt;
    return living_numbers_[*living_of_[file]].front();
  }

  // ---- what goes with the open file description
  void plan_description(std::size_t file) {
    const OpenFile& wanted = wanted_.open_files[file];
    const RemoteFd fd = wanted_numbers_[file].front();
    const bool held = !living_of_[file] && model::may_be_held(wanted);
    static const std::vector<FileLock> kNone;
    const std::vector<FileLock>& now = living_of_[file] ? living_.open_files[*living_of_[file]].locks : kNone;
    for (const LockKind kind : kOfDescription) {
      const LockPlan locks = plan_locks(kind, wanted.locks, now);
      if (!locks.take.empty()) plan_.take.emplace_back(TakeLocks{file, living_number(file), locks.take, locks.back});
      if (!locks.ease.empty())
        plan_.settle.emplace_back(SetLocks{file, fd, locks.ease, false, kind == LockKind::lease});
      // What became of a held one before the task closed it is not known.
      if (held && (wanted.status_flags & O_PATH) == 0)
        plan_.settle.emplace_back(SetLocks{file, fd, {LockStep{.kind = kind}}, false, true});
      // The signal of a lease names the number through which it was set last: a spare one by now.
      if (kind == LockKind::lease && !locks.take.empty())
        plan_.settle.emplace_back(SetLocks{file, fd, locks.take, false, true});
    }
  }

  // ---- what goes with the task
  // Does the number name, all the time, what it is to name?
  [[nodiscard]] bool stays(RemoteFd fd, std::size_t living_file) const {
    const auto found = std::ranges::lower_bound(wanted_.descriptors, fd, {}, &model::Descriptor::fd);
    return found != wanted_.descriptors.end() && found->fd == fd && living_of_[found->open_file] == living_file;
  }
  // Is it put into place from a spare number?
  [[nodiscard]] bool has_spare(std::size_t file) const {
    if (wanted_numbers_[file].empty()) return false;
    if (!living_of_[file]) return true;
    return std::ranges::none_of(wanted_numbers_[file], [&](RemoteFd fd) {
      return std::ranges::find(living_numbers_[*living_of_[file]], fd) != living_numbers_[*living_of_[file]].end();
    });
  }
  // Files of which commit closes a number.
  [[nodiscard]] std::set<FileIdentity> exposed() const {
    std::set<FileIdentity> all;
    for (const model::Descriptor& there : living_.descriptors) {
      const auto identity = identity_of(living_.open_files[there.open_file]);
      if (identity && !stays(there.fd, there.open_file)) all.insert(*identity);
    }
    for (std::size_t file = 0; file < wanted_.open_files.size(); ++file)
      if (const auto identity = identity_of(wanted_.open_files[file]); identity && has_spare(file))
        all.insert(*identity);
    return all;
  }
  // A wanted file through which it can be set.
  [[nodiscard]] std::optional<std::size_t> through(const FileIdentity& identity, LockMode mode) const {
    for (std::size_t file = 0; file < wanted_.open_files.size(); ++file) {
      if (!wanted_numbers_[file].empty() && identity_of(wanted_.open_files[file]) == identity &&
          allows(wanted_.open_files[file], mode))
        return file;
    }
    return std::nullopt;
  }

  void plan_posix() {
    for (std::size_t file = 0; file < living_.open_files.size(); ++file) {
      std::vector<LockStep> steps;
      for (const FileLock& lock : living_.open_files[file].locks)
        if (lock.kind == LockKind::posix)
          steps.push_back({.kind = lock.kind, .mode = lock.mode, .first = lock.first, .last = lock.last});
      if (!steps.empty() && !living_numbers_[file].empty())
        plan_.record.push_back({.fd = living_numbers_[file].front(), .steps = std::move(steps)});
    }
    const auto wanted = posix_locks(wanted_);
    const auto living = posix_locks(living_);
    const std::set<FileIdentity> exposed_files = exposed();
    for (const auto& [identity, locks] : wanted) {
      const auto now = living.find(identity);
      plan_posix_of(identity, locks, now == living.end() ? std::vector<FileLock>{} : now->second,
                    exposed_files.contains(identity));
    }
    for (const auto& [identity, locks] : living) {
      if (!wanted.contains(identity)) plan_posix_of(identity, {}, locks, false);
    }
  }

  void plan_posix_of(const FileIdentity& identity, const std::vector<FileLock>& wanted,
                     const std::vector<FileLock>& living, bool exposed) {
    const LockPlan locks = plan_locks(LockKind::posix, wanted, living);
    for (std::size_t at = 0; at < locks.take.size(); ++at) {
      const auto file = through(identity, locks.take[at].mode);
      if (!file) continue;
      std::vector<LockStep> back;
      for (const LockStep& step : locks.back)
        if (locks.take[at].first <= step.first && step.last <= locks.take[at].last) back.push_back(step);
      plan_.take.emplace_back(TakeLocks{*file, living_number(*file), {locks.take[at]}, std::move(back)});
    }
    if (wanted.empty()) {  // where the task has the file open no more, the close lets go
      if (const auto file = through(identity, LockMode::none))
        plan_.settle.emplace_back(SetLocks{*file, wanted_numbers_[*file].front(), {LockStep{}}, false, false});
      return;
    }
    if (exposed) {
      for (std::size_t file = 0; file < wanted_.open_files.size(); ++file)
        if (identity_of(wanted_.open_files[file]) == identity && has_spare(file))
          plan_.settle.emplace_back(CloseSpare{file});
    }
    for (const LockStep& step : state_locks(LockKind::posix, wanted)) {
      const auto file = through(identity, step.mode);
      if (!file) continue;
      const SetLocks set{*file, wanted_numbers_[*file].front(), {step}, exposed && step.mode != LockMode::none, false};
      if (exposed || !locks.ease.empty()) plan_.settle.emplace_back(set);
      if (step.mode != LockMode::none) plan_.last.push_back(set);
    }
  }

  const DescriptorTable& wanted_;
  const DescriptorTable& living_;
  const std::vector<std::optional<std::size_t>>& living_of_;
  std::vector<std::vector<RemoteFd>> wanted_numbers_;
  std::vector<std::vector<RemoteFd>> living_numbers_;
  TableLocks plan_;
};

}  // namespace

TableLocks plan_table_locks(const DescriptorTable& wanted, const DescriptorTable& living,
                            const std::vector<std::optional<std::size_t>>& living_of) {
  return LockPlanner(wanted, living, living_of).plan();
}

}  // namespace relive::diff
