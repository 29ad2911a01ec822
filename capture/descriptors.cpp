#include "capture/descriptors.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <concepts>
#include <map>
#include <memory>
#include <set>

#include "base/number.h"
#include "capture/event_queue.h"
#include "capture/fdinfo.h"
#include "capture/in_flight.h"
#include "capture/kcmp.h"
#include "capture/locks.h"
#include "capture/memory_file.h"
#include "capture/opened.h"
#include "capture/sockets.h"
#include "capture/survey.h"
#include "capture/unix_names.h"
#include "task/procfs.h"

namespace relive::capture {

namespace {

using model::DescriptorTable;
using model::FileObject;
using model::OpenFile;
using model::PipeEnd;
using model::RemoteFd;
using model::Socket;
using model::UnhandledFile;

// What tells open files apart before kcmp is asked.
struct Key {
  mode_t type = 0;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint32_t flags = 0;
  std::int64_t position = 0;
  auto operator<=>(const Key&) const = default;
};

// Status flags that only opening sets, and a program can tell.
constexpr std::uint32_t kOpenedAs = O_ACCMODE | O_PATH | O_SYNC;

// What tells the objects of two tables apart before they are looked at.
struct ObjectKey {
  std::size_t kind = 0;
  model::FileIdentity identity;
  auto operator<=>(const ObjectKey&) const = default;
};
ObjectKey object_key(const OpenFile& file) {
  return {.kind = file.object.index(),
          .identity = std::visit(
              []<class T>(const T& object) -> model::FileIdentity {
                if constexpr (requires { requires std::same_as<decltype(T::identity), model::FileIdentity>; })
                  return object.identity;
                if constexpr (requires { object.inode; }) return {.device = 0, .inode = object.inode};
                return {};
              },
              file.object)};
}

class Reader {
 public:
  Reader(std::span<const Table> tables, const DescriptorTable* snapshot, const FileHolds* holds)
      : tables_(tables), sources_(tables.size()), snapshot_(snapshot), holds_(holds) {}

  Result<DescriptorTable> read() {
    for (std::size_t table = 0; table < tables_.size(); ++table) {
      if (tables_[table].task == nullptr) continue;
      RELIVE_TRY(open_directories(static_cast<int>(table)));
      if (tables_[table].visit == nullptr) {
        list_as_it_was(static_cast<int>(table));
        continue;
      }
      RELIVE_TRY(list(static_cast<int>(table)));
      RELIVE_TRY(read_close_on_exec(static_cast<int>(table)));
    }
    std::vector<bool> known(table_.descriptors.size(), false);
    for (std::size_t index = 0; index < known.size(); ++index)
      known[index] = RELIVE_TRY(find_held(table_.descriptors[index]));
    for (std::size_t index = 0; index < known.size(); ++index)
      if (!known[index]) RELIVE_TRY(read_one(table_.descriptors[index]));
    RELIVE_TRY(read_locks_of_others());
    const Survey survey{.tables = tables_, .table = table_, .first = first_, .snapshot = snapshot_, .holds = holds_};
    RELIVE_TRY(complete_epoll_sets(survey));
    RELIVE_TRY(complete_pipes(survey));
    RELIVE_TRY(complete_named_pipes(survey));
    RELIVE_TRY(complete_unix_sockets(survey));
    first_.resize(table_.open_files.size(), RemoteFd{-1});  // what is in flight only
    complete_terminals(survey);
    RELIVE_TRY(complete_tcp_pairs(survey));
    RELIVE_TRY(complete_addressed_sockets(survey));
    RELIVE_TRY(find_in_snapshot());
    return std::move(table_);
  }

 private:
  // Where a table is read.
  struct Source {
    pid_t tid = 0;
    UniqueFd fdinfo;        // /proc/PID/task/TID/fdinfo
    std::size_t begin = 0;  // of its descriptors in table_
  };
  [[nodiscard]] const Table& at(int table) const { return tables_[static_cast<std::size_t>(table)]; }
  [[nodiscard]] bool is_at_rest(int table) const { return at(table).visit == nullptr; }
  [[nodiscard]] Source& source(int table) { return sources_[static_cast<std::size_t>(table)]; }
  [[nodiscard]] const Source& source(int table) const { return sources_[static_cast<std::size_t>(table)]; }

  Result<void> open_directories(int table) {
    Source& from = source(table);
    from.tid = at(table).thread.value;
    from.begin = table_.descriptors.size();
    from.fdinfo = RELIVE_TRY(
        task::open_proc(at(table).task->pid(), fmt::format("task/{}/fdinfo", from.tid), O_RDONLY | O_DIRECTORY));
    return {};
  }

  void list_as_it_was(int table) {
    if (snapshot_ == nullptr) return;
    for (const model::Descriptor& descriptor : snapshot_->descriptors)
      if (descriptor.fd.table == table) table_.descriptors.push_back(descriptor);
  }

  Result<void> list(int table) {
    UniqueFd listed = RELIVE_TRY(
        task::open_proc(at(table).task->pid(), fmt::format("task/{}/fd", source(table).tid), O_RDONLY | O_DIRECTORY));
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(listed.get()), ::closedir);
    if (stream == nullptr) return fail_errno("fdopendir", "/proc/PID/fd");
    [[maybe_unused]] const int streams = listed.release();  // it is the stream's from here on
    const parasite::Visit& visit = *at(table).visit;
    while (const dirent* entry = ::readdir(stream.get())) {
      const auto number = parse_number<int>(entry->d_name);
      if (!number || visit.is_own_descriptor(RemoteFd{*number})) continue;
      table_.descriptors.push_back({.fd = {.value = *number, .table = table}, .close_on_exec = false, .open_file = 0});
    }
    // The kernel lists by number, ascending.
    if (!std::ranges::is_sorted(table_.descriptors, {}, &model::Descriptor::fd)) {
      return fail(ErrorKind::system, "the listing of descriptors is not in order");
    }
    return {};
  }

  Result<void> read_close_on_exec(int table) {
    const std::size_t begin = source(table).begin;
    parasite::Program program;
    for (std::size_t index = begin; index < table_.descriptors.size(); ++index) {
      const int number = table_.descriptors[index].fd.value;
      program.syscall(fmt::format("fcntl F_GETFD {}", number), SYS_fcntl,
                      {static_cast<std::uint64_t>(number), F_GETFD});
    }
    if (program.empty()) return {};
    RELIVE_TRY(at(table).visit->run(program));
    for (std::size_t index = begin; index < table_.descriptors.size(); ++index) {
      table_.descriptors[index].close_on_exec = (program.result(index - begin) & FD_CLOEXEC) != 0;
    }
    return {};
  }

  // Of a duplicate of ours: what the kernel says of the task's own.
  static Result<std::string> link_of(int ours) {
    std::array<char, 4096 + 64> target{};
    const std::string link = fmt::format("/proc/self/fd/{}", ours);
    const ssize_t size = ::readlink(link.c_str(), target.data(), target.size());
    if (size < 0) return fail_errno("readlink", link);
    return std::string(target.data(), static_cast<std::size_t>(size));
  }

  [[nodiscard]] Result<std::strong_ordering> compare(RemoteFd one, RemoteFd other) const {
    return compare_files(source(one.table).tid, one.value, source(other.table).tid, other.value);
  }
  [[nodiscard]] Result<bool> is_held(int ours, RemoteFd fd) const {
    return RELIVE_TRY(compare_files(::getpid(), ours, source(fd.table).tid, fd.value)) == std::strong_ordering::equal;
  }
  Result<std::vector<model::FileLock>> locks_under(RemoteFd fd) const {
    return parse_locks(RELIVE_TRY(read_fdinfo(source(fd.table).fdinfo.get(), fd)), fd.table);
  }
  // POSIX locks are told to those only whose they are: each table that has the file is asked once.
  Result<void> read_locks_of_others() {
    if (std::ranges::count_if(tables_, [](const Table& table) { return table.task != nullptr; }) < 2) return {};
    std::set<std::pair<std::size_t, int>> asked;
    for (std::size_t index = 0; index < first_.size(); ++index) asked.emplace(index, first_[index].table);
    for (const model::Descriptor& descriptor : table_.descriptors) {
      OpenFile& file = table_.open_files[descriptor.open_file];
      const bool lockable = std::visit(
          []<class T>(const T&) {
            return std::is_same_v<T, model::RegularFile> || std::is_same_v<T, model::DeviceFile> ||
                   std::is_same_v<T, model::Terminal> || std::is_same_v<T, model::MessageQueue>;
          },
          file.object);
      if (!lockable || (file.status_flags & O_PATH) != 0) continue;
      if (!asked.emplace(descriptor.open_file, descriptor.fd.table).second) continue;
      for (const model::FileLock& lock : RELIVE_TRY(locks_under(descriptor.fd)))
        if (lock.kind == model::LockKind::posix) file.locks.push_back(lock);
    }
    return {};
  }

  static Result<struct stat> status_of(int ours) {
    struct stat status{};
    if (::fstat(ours, &status) != 0) return fail_errno("fstat", "a descriptor");
    return status;
  }

  static Result<Key> key_of(int ours, const struct stat& status) {
    const int flags = ::fcntl(ours, F_GETFL);
    if (flags < 0) return fail_errno("fcntl", "F_GETFL");
    return Key{.type = status.st_mode & S_IFMT,
               .device = status.st_dev,
               .inode = status.st_ino,
               .flags = static_cast<std::uint32_t>(flags),
               .position = std::max<off_t>(::lseek(ours, 0, SEEK_CUR), 0)};
  }

  std::size_t add(OpenFile file, RemoteFd fd) {
    table_.open_files.push_back(std::move(file));
    first_.push_back(fd);
    return first_.size() - 1;
  }

  // Most descriptors name what they named at the snapshot. Where the keeper holds that, one comparison shows it, and
  // the held duplicate tells the rest: it is the same open file.
  Result<bool> find_held(model::Descriptor& descriptor) {
    if (snapshot_ == nullptr || holds_ == nullptr) return false;
    const auto there = std::ranges::lower_bound(snapshot_->descriptors, descriptor.fd, {}, &model::Descriptor::fd);
    if (there == snapshot_->descriptors.end() || there->fd != descriptor.fd) return false;
    const auto held = holds_->open_files.find(there->open_file);
    if (held == holds_->open_files.end()) return false;
    // A queue tells more than its position: it is read as one that nobody knows.
    if (std::holds_alternative<model::MessageQueue>(snapshot_->open_files[there->open_file].object)) return false;
    const int ours = held->second.get();
    if (!is_at_rest(descriptor.fd.table) && !RELIVE_TRY(is_held(ours, descriptor.fd))) return false;
    const auto [seen, fresh] = living_of_.try_emplace(there->open_file, table_.open_files.size());
    descriptor.open_file = seen->second;
    if (!fresh) return true;
    const struct stat status = RELIVE_TRY(status_of(ours));
    const Key key = RELIVE_TRY(key_of(ours, status));
    OpenFile file = snapshot_->open_files[there->open_file];
    file.status_flags = key.flags;
    file.watched = false;
    file.same_as = there->open_file;
    if ((key.flags & O_PATH) == 0) read_owner(ours, file);
    file.locks = RELIVE_TRY(locks_of(descriptor.fd, ours, status));
    std::visit(
        [&](auto& object) {
          if constexpr (requires { object.position; }) object.position = key.position;
        },
        file.object);
    if (auto* const regular = std::get_if<model::RegularFile>(&file.object); regular != nullptr && regular->memory)
      regular->memory = RELIVE_TRY(read_memory_file(ours));
    unsorted_[key].push_back(add(std::move(file), descriptor.fd));
    return true;
  }

  // Where among the open files that are alike, in kcmp's order, is this one, or should it be? log n comparisons.
  using Place = std::pair<std::vector<std::size_t>::iterator, bool>;
  Result<Place> place_of(std::vector<std::size_t>& alike, RemoteFd fd) const {
    auto low = alike.begin();
    for (auto high = alike.end(); low != high;) {
      const auto middle = low + (high - low) / 2;
      const auto order = RELIVE_TRY(compare(first_[*middle], fd));
      if (order == std::strong_ordering::equal) return Place{middle, true};
      if (order == std::strong_ordering::less)
        low = middle + 1;
      else
        high = middle;
    }
    return Place{low, false};
  }

  Result<void> read_one(model::Descriptor& descriptor) {
    const UniqueFd duplicate = RELIVE_TRY(at(descriptor.fd.table).task->borrow(descriptor.fd));
    const struct stat status = RELIVE_TRY(status_of(duplicate.get()));
    const Key key = RELIVE_TRY(key_of(duplicate.get(), status));
    std::vector<std::size_t>& alike = alike_[key];
    if (const auto late = unsorted_.find(key); late != unsorted_.end()) {
      for (const std::size_t index : late->second)
        alike.insert(RELIVE_TRY(place_of(alike, first_[index])).first, index);
      unsorted_.erase(late);
    }
    const auto [place, found] = RELIVE_TRY(place_of(alike, descriptor.fd));
    if (found) {
      descriptor.open_file = *place;
      first_[*place] = std::min(first_[*place], descriptor.fd);
      return {};
    }
    const std::string link = RELIVE_TRY(link_of(duplicate.get()));
    OpenFile file;
    file.status_flags = key.flags;
    if ((key.flags & O_PATH) == 0) read_owner(duplicate.get(), file);
    file.object = RELIVE_TRY(read_object({.table = at(descriptor.fd.table),
                                          .fd = descriptor.fd,
                                          .ours = duplicate.get(),
                                          .fdinfo_directory = source(descriptor.fd.table).fdinfo.get(),
                                          .link = link,
                                          .status = status,
                                          .flags = key.flags,
                                          .position = key.position,
                                          .tables = tables_},
                                         file));
    descriptor.open_file = add(std::move(file), descriptor.fd);
    alike.insert(place, descriptor.open_file);
    return {};
  }

  static void read_owner(int duplicate, OpenFile& file) {
    f_owner_ex owner{};
    if (::fcntl(duplicate, F_GETOWN_EX, &owner) == 0 && owner.pid != 0) {
      file.owner = owner.pid;
      file.owner_type = owner.type;
    }
    file.owner_signal = std::max(::fcntl(duplicate, F_GETSIG), 0);
  }

  Result<std::vector<model::FileLock>> locks_of(RemoteFd fd, int ours, const struct stat& status) {
    if (lock_list_.surely_none(ours, status)) return std::vector<model::FileLock>{};
    return locks_under(fd);
  }

  Result<FileObject> read_object(const Opened& opened, OpenFile& file) {
    // A reference alone: it can be held whatever it leads to, for nobody can use it.
    if ((opened.flags & O_PATH) != 0) return read_reference(opened);
    if (const ReadObject reader = reader_of(opened.link)) return reader(opened);
    if (std::string kind = unhandled_kind(opened.link); !kind.empty()) return UnhandledFile{std::move(kind)};
    const auto unhandled_at = [&](std::string_view what) {
      return FileObject(UnhandledFile{fmt::format("{} ({})", what, opened.link)});
    };
    switch (opened.status.st_mode & S_IFMT) {
      case S_IFREG:
      case S_IFDIR:
        file.locks = RELIVE_TRY(locks_of(opened.fd, opened.ours, opened.status));
        return read_regular(opened);
      case S_IFCHR:
        file.locks = RELIVE_TRY(locks_of(opened.fd, opened.ours, opened.status));
        return read_device(opened);
      case S_IFBLK:
        return unhandled_at("block device");
      case S_IFIFO:
        return opened.link.starts_with("pipe:[") ? read_pipe(opened) : read_named_pipe(opened);
      case S_IFSOCK:
        return read_socket(opened.ours, opened.status.st_ino, diagnoser_);
      default:
        return unhandled_at("file of an unknown kind");
    }
  }

  // Is `living` (under the number `fd`) the very description that `wanted` was?
  Result<bool> is_same(std::size_t wanted_index, const OpenFile& wanted, const OpenFile& living, RemoteFd fd) const {
    if (object_key(wanted) != object_key(living)) return false;
    if (holds_ != nullptr) {
      if (const auto held = holds_->open_files.find(wanted_index); held != holds_->open_files.end())
        return is_held(held->second.get(), fd);
    }
    return std::visit(
        [&]<class T>(const T& object) -> bool {
          const T& other = std::get<T>(living.object);
          if constexpr (model::SelfContained<T>) return same_object(object, other);
          if constexpr (std::is_same_v<T, PipeEnd>) return object.write_end == other.write_end;
          if constexpr (std::is_same_v<T, Socket>) return true;
          if constexpr (std::is_same_v<T, model::Terminal>)
            return same_terminal(object, other) && ((wanted.status_flags ^ living.status_flags) & O_ACCMODE) == 0;
          // Files that may not be held (a named pipe, one in an epoll set): the same file, opened in the same way.
          if constexpr (std::is_same_v<T, model::RegularFile> || std::is_same_v<T, model::DeviceFile> ||
                        std::is_same_v<T, model::MessageQueue> || std::is_same_v<T, model::NamedPipe>)
            return ((wanted.status_flags ^ living.status_flags) & kOpenedAs) == 0;
          return false;
        },
        wanted.object);
  }

  Result<void> find_in_snapshot() {
    if (snapshot_ == nullptr) return {};
    std::vector<bool> taken(snapshot_->open_files.size(), false);
    for (const auto& [wanted, living] : living_of_) taken[wanted] = true;
    bool held = true;  // what is known for sure goes first: a file opened anew is told by its name and mode alone
    const auto find = [&](std::size_t index, std::size_t wanted) -> Result<void> {
      if (taken[wanted] || table_.open_files[index].same_as || first_[index].value < 0) return {};
      if (held && model::is_opened_anew(snapshot_->open_files[wanted])) return {};
      if (!RELIVE_TRY(is_same(wanted, snapshot_->open_files[wanted], table_.open_files[index], first_[index])))
        return {};
      taken[wanted] = true;
      table_.open_files[index].same_as = wanted;
      return {};
    };
    // Most are where they were.
    for (std::size_t index = 0; index < table_.open_files.size(); ++index) {
      const auto there = std::ranges::lower_bound(snapshot_->descriptors, first_[index], {}, &model::Descriptor::fd);
      if (there != snapshot_->descriptors.end() && there->fd == first_[index])
        RELIVE_TRY(find(index, there->open_file));
    }
    std::multimap<ObjectKey, std::size_t> moved;
    for (std::size_t wanted = 0; wanted < taken.size(); ++wanted) {
      if (!taken[wanted]) moved.emplace(object_key(snapshot_->open_files[wanted]), wanted);
    }
    for (std::size_t index = 0; index < table_.open_files.size(); ++index) {
      const auto [begin, end] = moved.equal_range(object_key(table_.open_files[index]));
      for (auto wanted = begin; wanted != end && !table_.open_files[index].same_as; ++wanted)
        RELIVE_TRY(find(index, wanted->second));
    }
    held = false;
    for (std::size_t index = 0; index < table_.open_files.size(); ++index) {
      const auto there = std::ranges::lower_bound(snapshot_->descriptors, first_[index], {}, &model::Descriptor::fd);
      if (there != snapshot_->descriptors.end() && there->fd == first_[index])
        RELIVE_TRY(find(index, there->open_file));
    }
    for (std::size_t index = 0; index < table_.open_files.size(); ++index) {
      const auto [begin, end] = moved.equal_range(object_key(table_.open_files[index]));
      for (auto wanted = begin; wanted != end && !table_.open_files[index].same_as; ++wanted)
        RELIVE_TRY(find(index, wanted->second));
    }
    return {};
  }

  std::span<const Table> tables_;
  std::vector<Source> sources_;
  const DescriptorTable* snapshot_;
  const FileHolds* holds_;
  DescriptorTable table_;
  std::map<Key, std::vector<std::size_t>> alike_;  // open files, in kcmp's order
  std::map<Key, std::vector<std::size_t>>
      unsorted_;                                  // found by find_held(): not sorted in unless one comes that is alike
  std::map<std::size_t, std::size_t> living_of_;  // what find_held() found, by wanted file
  std::vector<RemoteFd> first_;                   // by open file: its lowest number
  UnixDiagnoser diagnoser_;
  LockList lock_list_;
};

}  // namespace

Result<std::string> Opened::fdinfo() const { return read_fdinfo(fdinfo_directory, fd); }

ReadObject reader_of(std::string_view link) {
  static constexpr std::array<std::pair<std::string_view, ReadObject>, 6> kReaders{{
      {"anon_inode:[eventfd]", read_event_counter},
      {"anon_inode:[eventpoll]", read_epoll_set},
      {"anon_inode:[timerfd]", read_timer},
      {"anon_inode:[signalfd]", read_signal_file},
      {"anon_inode:inotify", read_inotify},
      {"anon_inode:[pidfd]", read_process_handle},
  }};
  for (const auto& [name, reader] : kReaders)
    if (link == name) return reader;
  return nullptr;
}

Result<DescriptorTable> read_descriptors(std::span<const Table> tables, const DescriptorTable* snapshot,
                                         const FileHolds* holds) {
  return with_context(Reader(tables, snapshot, holds).read(), "reading the descriptor table");
}

Result<DescriptorTable> read_descriptors(std::span<parasite::Visit* const> tables, const DescriptorTable* snapshot,
                                         const FileHolds* holds) {
  std::vector<Table> visited;
  for (parasite::Visit* const visit : tables) visited.emplace_back(visit);
  return read_descriptors(visited, snapshot, holds);
}

Result<void> hold_descriptors(std::span<parasite::Visit* const> tables, const DescriptorTable& table,
                              FileHolds& holds) {
  for (const model::Descriptor& descriptor : table.descriptors) {
    parasite::Visit& visit = *tables[static_cast<std::size_t>(descriptor.fd.table)];
    const std::size_t index = descriptor.open_file;
    const OpenFile& file = table.open_files[index];
    if (model::may_be_held(file) && !holds.open_files.contains(index)) {
      holds.open_files.emplace(index, RELIVE_TRY(visit.task().borrow(descriptor.fd)));
    } else if (model::is_opened_anew(file) && !holds.references.contains(index)) {
      const UniqueFd duplicate = RELIVE_TRY(visit.task().borrow(descriptor.fd));
      const std::string link = fmt::format("/proc/self/fd/{}", duplicate.get());
      UniqueFd reference(::open(link.c_str(), O_PATH | O_CLOEXEC));
      if (!reference) return fail_errno("open O_PATH", model::describe(file));
      holds.references.emplace(index, std::move(reference));
    }
    if (const auto* const socket = std::get_if<Socket>(&file.object);
        socket != nullptr && !holds.references.contains(index)) {
      if (UniqueFd directory = open_name_directory(*socket)) holds.references.emplace(index, std::move(directory));
    }
    const auto* const regular = std::get_if<model::RegularFile>(&file.object);
    if (regular == nullptr || !regular->memory || holds.contents.contains(index)) continue;
    const UniqueFd duplicate = RELIVE_TRY(visit.task().borrow(descriptor.fd));
    if (auto copy = RELIVE_TRY(copy_memory_file(duplicate.get(), *regular->memory)))
      holds.contents.emplace(index, std::move(copy));
  }
  return hold_files_in_flight(tables, table, holds);
}

Result<void> look_into_queues(std::span<parasite::Visit* const> tables, DescriptorTable& table,
                              const FileHolds& holds) {
  std::set<std::size_t> seen;
  for (const model::Descriptor& descriptor : table.descriptors) {
    auto* const set = std::get_if<model::InotifySet>(&table.open_files[descriptor.open_file].object);
    if (set == nullptr || set->unread == 0 || !seen.insert(descriptor.open_file).second) continue;
    parasite::Visit& visit = *tables[static_cast<std::size_t>(descriptor.fd.table)];
    Watcher watcher{.pid = visit.task().pid(), .thread = visit.driver(), .own = {}};
    for (const auto& [index, held] : holds.open_files) watcher.own.push_back(held.get());
    const UniqueFd duplicate = RELIVE_TRY(visit.task().borrow(descriptor.fd));
    set->events = RELIVE_TRY(with_context(look_into_queue(watcher, duplicate.get(), set->watches),
                                          fmt::format("descriptor {} (inotify instance)", descriptor.fd.value)));
    int unread = 0;
    if (::ioctl(duplicate.get(), FIONREAD, &unread) != 0) return fail_errno("ioctl FIONREAD", "an inotify instance");
    set->unread = static_cast<std::uint32_t>(unread);
  }
  return {};
}

std::vector<std::string> unhandled(const DescriptorTable& table, std::span<const model::Pid> tasks) {
  std::vector<std::string> reasons;
  std::set<std::size_t> told;
  for (const model::Descriptor& descriptor : table.descriptors) {
    if (tasks.size() > 1 && !told.insert(descriptor.open_file).second) continue;
    const OpenFile& file = table.open_files[descriptor.open_file];
    const std::string fd = model::name_of(descriptor.fd, tasks);
    if (const auto* const other = std::get_if<UnhandledFile>(&file.object)) {
      const std::string kind = other->what.substr(0, other->what.find(" ("));
      const std::string_view article =
          std::string_view("aeioAEIO").contains(kind.front()) ? "an" : "a";  // a unix socket, a UDP socket
      reasons.push_back(
          fmt::format("{} is {} {}; this release does not roll back {}s", fd, article, other->what, kind));
    }
    if (const auto* const regular = std::get_if<model::RegularFile>(&file.object);
        regular != nullptr && regular->memory) {
      if (std::string reason = why_not(*regular->memory); !reason.empty())
        reasons.push_back(fmt::format("{} is a memfd {}", fd, reason));
    }
    for (const model::FileLock& lock : file.locks) {
      if (lock.breaking) {
        reasons.push_back(
            fmt::format("{} ({}) holds a lease that somebody else is breaking just now", fd, model::describe(file)));
      } else if (lock.kind == model::LockKind::other) {
        reasons.push_back(fmt::format("{} ({}) holds a {}; this release does not roll back those", fd,
                                      model::describe(file), model::text(lock)));
      } else if (!model::is_opened_anew(file) && !(model::may_be_held(file) && !model::sticks_to_description(lock))) {
        reasons.push_back(fmt::format("{} ({}) holds a {}; this release does not roll back locks on it", fd,
                                      model::describe(file), model::text(lock)));
      }
    }
    if (const auto* const queue = std::get_if<model::MessageQueue>(&file.object); queue != nullptr && queue->notifies) {
      reasons.push_back(
          fmt::format("{} ({}): the task has asked to be told of a message (mq_notify); how cannot be known", fd,
                      model::describe(file)));
    }
    if (const auto* const pipe = std::get_if<model::NamedPipe>(&file.object); pipe != nullptr && pipe->unseen != 0) {
      reasons.push_back(fmt::format(
          "descriptor {} ({}): {} bytes are unread in it and nobody has it open for reading, so that they cannot be "
          "looked at",
          fd, model::describe(file), pipe->unseen));
    }
    if (const auto* const terminal = std::get_if<model::Terminal>(&file.object)) {
      for (const std::string& reason : model::not_in_a_snapshot(*terminal))
        reasons.push_back(fmt::format("{} ({}) {}", fd, model::describe(file), reason));
    }
    if (const auto* const tunnel = std::get_if<model::Tunnel>(&file.object); tunnel != nullptr && tunnel->unread) {
      reasons.push_back(fmt::format("descriptor {} ({}) holds unread packets, which nobody could put back", fd,
                                    model::describe(file)));
    }
    if (const auto* const socket = std::get_if<Socket>(&file.object)) {
      if (std::string reason = unhandled_messages(*socket); !reason.empty())
        reasons.push_back(fmt::format("{} ({}) {}", fd, model::describe(file), reason));
      if (std::string reason = unhandled_in_flight(*socket, table); !reason.empty())
        reasons.push_back(fmt::format("{} ({}) {}", fd, model::describe(file), reason));
    }
    if (const auto* const set = std::get_if<model::EpollSet>(&file.object)) {
      for (const model::EpollEntry& entry : set->entries) {
        if (!entry.stale || entry.file) continue;
        reasons.push_back(
            fmt::format("{} is an epoll set that watches a file which is no longer under its number {}, nor under any "
                        "other: somebody else has it open, and nobody can watch it again",
                        fd, entry.fd.value));
      }
    }
  }
  return reasons;
}

std::string unhandled_kind(std::string_view link) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 9> kAnonymous{{
      {"[fanotify]", "fanotify group"},
      {"[io_uring]", "io_uring"},
      {"[userfaultfd]", "userfaultfd"},
      {"[perf_event]", "perf event"},
      {"bpf-map", "BPF map"},
      {"bpf-prog", "BPF program"},
      {"bpf_link", "BPF link"},
      {"[landlock-ruleset]", "Landlock rule set"},
      {"[secretmem]", "secret memory file"},
  }};
  static constexpr std::string_view kPrefix = "anon_inode:";
  if (link.starts_with(kPrefix)) {
    const std::string_view name = link.substr(kPrefix.size());
    for (const auto& [tag, kind] : kAnonymous) {
      if (name == tag) return std::string(kind);
    }
    return fmt::format("kernel object ({})", name);
  }
  if (link.starts_with("/secretmem")) return "secret memory file";
  if (link.starts_with("/[aio]")) return "AIO ring";
  if (link.starts_with("pidfd:")) return "pidfd";
  if (link.starts_with("pipe:") || link.starts_with("socket:")) return {};
  // "net:[4026531840]": a namespace, or another object without a name in the file system.
  if (!link.starts_with('/') && !link.starts_with('(')) {
    return fmt::format("namespace or kernel object ({})", link);
  }
  return {};
}

}  // namespace relive::capture
