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

// Of what POSIX locks can stand on.
std::optional<FileIdentity> identity_of(const OpenFile& file) {
  return std::visit(
      [](const auto& object) -> std::optional<FileIdentity> {
        if constexpr (requires { object.identity.inode; }) return object.identity;
        return std::nullopt;
      },
      file.object);
}

// A table and a file: the owner of POSIX locks, and what they are on.
using Owned = std::pair<int, FileIdentity>;
std::map<Owned, std::vector<FileLock>> posix_locks(const DescriptorTable& table) {
  std::map<Owned, std::vector<FileLock>> locks;
  for (const OpenFile& file : table.open_files) {
    const auto identity = identity_of(file);
    if (!identity) continue;
    for (const FileLock& lock : file.locks)
      if (lock.kind == LockKind::posix) locks[{lock.table, *identity}].push_back(lock);
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
  LockPlanner(const Table& wanted, const Table& living, const Matches& matches, const Spares& spares)
      : wanted_(wanted), living_(living), living_of_(matches.living_of), spares_(spares) {}

  TableLocks plan() {
    for (std::size_t file = 0; file < wanted_.files(); ++file)
      if (!wanted_.numbers(file).empty()) plan_description(file);
    plan_posix();
    return std::move(plan_);
  }

 private:
  // ---- what goes with the open file description
  void plan_description(std::size_t file) {
    const OpenFile& wanted = wanted_.file(file);
    const RemoteFd fd = wanted_.numbers(file).front();
    const bool held = !living_of_[file] && model::may_be_held(wanted);
    static const std::vector<FileLock> kNone;
    const std::vector<FileLock>& now = living_of_[file] ? living_.file(*living_of_[file]).locks : kNone;
    std::optional<RemoteFd> from;
    if (living_of_[file]) from = living_.numbers(*living_of_[file]).front();
    for (const LockKind kind : kOfDescription) {
      const LockPlan locks = plan_locks(kind, wanted.locks, now);
      if (!locks.take.empty())
        plan_.take.emplace_back(TakeLocks{file, from, locks.take, locks.back, from.value_or(fd).table});
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

  // ---- what goes with the table
  // Does the number name, all the time, what it is to name?
  [[nodiscard]] bool stays(RemoteFd fd, std::size_t living_file) const {
    const model::Descriptor* const wanted = wanted_.at(fd);
    return wanted != nullptr && living_of_[wanted->open_file] == living_file;
  }
  // Files of which commit closes a number, by table.
  [[nodiscard]] std::set<Owned> exposed() const {
    std::set<Owned> all;
    for (const model::Descriptor& there : living_.descriptors()) {
      const auto identity = identity_of(living_.file(there.open_file));
      if (identity && !stays(there.fd, there.open_file)) all.emplace(there.fd.table, *identity);
    }
    for (const auto& [file, table] : spares_)
      if (const auto identity = identity_of(wanted_.file(file))) all.emplace(table, *identity);
    return all;
  }
  // A number of a wanted table through which it can be set.
  struct Through {
    std::size_t file;
    RemoteFd fd;
  };
  [[nodiscard]] std::optional<Through> through(const Owned& owned, LockMode mode) const {
    for (std::size_t file = 0; file < wanted_.files(); ++file) {
      if (identity_of(wanted_.file(file)) != owned.second || !allows(wanted_.file(file), mode)) continue;
      if (const auto fd = wanted_.number_in(file, owned.first)) return Through{file, *fd};
    }
    return std::nullopt;
  }

  void plan_posix() {
    for (std::size_t file = 0; file < living_.files(); ++file) {
      std::map<int, std::vector<LockStep>> steps;  // by table
      for (const FileLock& lock : living_.file(file).locks)
        if (lock.kind == LockKind::posix)
          steps[lock.table].push_back({.kind = lock.kind, .mode = lock.mode, .first = lock.first, .last = lock.last});
      for (auto& [table, all] : steps)
        if (const auto fd = living_.number_in(file, table))
          plan_.record.push_back({.fd = *fd, .steps = std::move(all)});
    }
    const auto wanted = posix_locks(wanted_.table());
    const auto living = posix_locks(living_.table());
    const std::set<Owned> exposed_files = exposed();
    for (const auto& [owned, locks] : wanted) {
      const auto now = living.find(owned);
      plan_posix_of(owned, locks, now == living.end() ? std::vector<FileLock>{} : now->second,
                    exposed_files.contains(owned));
    }
    for (const auto& [owned, locks] : living) {
      if (!wanted.contains(owned)) plan_posix_of(owned, {}, locks, false);
    }
  }

  void plan_posix_of(const Owned& owned, const std::vector<FileLock>& wanted, const std::vector<FileLock>& living,
                     bool exposed) {
    const int table = owned.first;
    const LockPlan locks = plan_locks(LockKind::posix, wanted, living);
    for (std::size_t at = 0; at < locks.take.size(); ++at) {
      const auto by = through(owned, locks.take[at].mode);
      if (!by) continue;
      std::vector<LockStep> back;
      for (const LockStep& step : locks.back)
        if (locks.take[at].first <= step.first && step.last <= locks.take[at].last) back.push_back(step);
      const auto& there = living_of_[by->file];
      plan_.take.emplace_back(TakeLocks{
          by->file, there ? living_.number_in(*there, table) : std::nullopt, {locks.take[at]}, std::move(back), table});
    }
    if (wanted.empty()) {  // where the table has the file open no more, the close lets go
      if (const auto by = through(owned, LockMode::none))
        plan_.settle.emplace_back(SetLocks{by->file, by->fd, {LockStep{}}, false, false});
      return;
    }
    if (exposed) {
      for (const auto& [file, of] : spares_)
        if (of == table && identity_of(wanted_.file(file)) == owned.second)
          plan_.settle.emplace_back(CloseSpare{file, table});
    }
    for (const LockStep& step : state_locks(LockKind::posix, wanted)) {
      const auto by = through(owned, step.mode);
      if (!by) continue;
      const SetLocks set{by->file, by->fd, {step}, exposed && step.mode != LockMode::none, false};
      if (exposed || !locks.ease.empty()) plan_.settle.emplace_back(set);
      if (step.mode != LockMode::none) plan_.last.push_back(set);
    }
  }

  const Table& wanted_;
  const Table& living_;
  const std::vector<std::optional<std::size_t>>& living_of_;
  const Spares& spares_;
  TableLocks plan_;
};

}  // namespace

TableLocks plan_table_locks(const Table& wanted, const Table& living, const Matches& matches, const Spares& spares) {
  return LockPlanner(wanted, living, matches, spares).plan();
}

}  // namespace relive::diff
