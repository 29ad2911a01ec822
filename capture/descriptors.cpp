#include "capture/descriptors.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <memory>
#include <tuple>

#include "capture/sockets.h"
#include "task/procfs.h"

namespace relive::capture {

namespace {

using model::DescriptorTable;
using model::FileObject;
using model::OpenFile;
using model::PipeEnd;
using model::RemoteFd;
using model::StreamSocket;
using model::UnhandledFile;

// 0: same, 1/2/3: other (kcmp(2)).
Result<bool> same_file(pid_t first, int first_fd, pid_t second, int second_fd) {
  const long answer = ::syscall(SYS_kcmp, first, second, KCMP_FILE, first_fd, second_fd);
  if (answer < 0) return fail_errno("kcmp", "KCMP_FILE");
  return answer == 0;
}

std::uint64_t number_in(std::string_view text, int base) {
  std::uint64_t value = 0;
  const std::size_t start = text.find_first_not_of(" \t");
  if (start == std::string_view::npos) return 0;
  text.remove_prefix(start);
  std::from_chars(text.data(), text.data() + text.size(), value, base);
  return value;
}

// The text behind "NAME:" up to the next white space, spaces before it skipped; from `from` on.
std::optional<std::string_view> word_after(std::string_view text, std::string_view name) {
  const std::size_t found = text.find(name);
  if (found == std::string_view::npos) return std::nullopt;
  text.remove_prefix(found + name.size());
  const std::size_t start = text.find_first_not_of(" \t");
  if (start == std::string_view::npos) return std::nullopt;
  text.remove_prefix(start);
  return text.substr(0, text.find_first_of(" \t\n"));
}

// What tells open files apart before kcmp is asked.
struct Key {
  mode_t type = 0;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint32_t flags = 0;
  std::int64_t position = 0;
  std::uint64_t id = 0;  // eventfd-id
  bool operator==(const Key&) const = default;
};

bool is_terminal(std::uint64_t device) {
  const auto number = major(device);
  return number == 4 || (number == 5 && minor(device) != 2) || (number >= 136 && number <= 143);  // devices.txt
}

class Reader {
 public:
  Reader(parasite::Visit& visit, const DescriptorTable* snapshot, const Holds* holds)
      : visit_(visit), task_(visit.task()), tid_(visit.driver().value), snapshot_(snapshot), holds_(holds) {}

  Result<DescriptorTable> read() {
    RELIVE_TRY(list());
    RELIVE_TRY(read_close_on_exec());
    for (std::size_t index = 0; index < table_.descriptors.size(); ++index)
      RELIVE_TRY(read_one(table_.descriptors[index]));
    RELIVE_TRY(complete_epoll_sets());
    RELIVE_TRY(complete_pipes());
    RELIVE_TRY(complete_unix_sockets());
    RELIVE_TRY(find_in_snapshot());
    return std::move(table_);
  }

 private:
  Result<void> list() {
    UniqueFd directory =
        RELIVE_TRY(task::open_proc(task_.pid(), fmt::format("task/{}/fd", tid_), O_RDONLY | O_DIRECTORY));
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(directory.get()), ::closedir);
    if (stream == nullptr) return fail_errno("fdopendir", "/proc/PID/fd");
    directory_ = directory.release();  // the stream's from here on
    std::array<char, 4096 + 64> target{};
    while (const dirent* entry = ::readdir(stream.get())) {
      int number = -1;
      const std::string_view name = entry->d_name;
      if (std::from_chars(name.data(), name.data() + name.size(), number).ec != std::errc{}) continue;
      const ssize_t size = ::readlinkat(directory_, entry->d_name, target.data(), target.size());
      if (size < 0) return fail_errno("readlink", fmt::format("/proc/{}/fd/{}", task_.pid().value, number));
      table_.descriptors.push_back({.fd = RemoteFd{number}, .close_on_exec = false, .open_file = 0});
      links_.emplace_back(target.data(), static_cast<std::size_t>(size));
    }
    // The kernel lists by number, ascending; links_ goes with it.
    if (!std::ranges::is_sorted(table_.descriptors, {}, &model::Descriptor::fd)) {
      return fail(ErrorKind::system, "the listing of descriptors is not in order");
    }
    return {};
  }

  Result<void> read_close_on_exec() {
    parasite::Program program;
    for (const model::Descriptor& descriptor : table_.descriptors) {
      program.syscall(fmt::format("fcntl F_GETFD {}", descriptor.fd.value), SYS_fcntl,
                      {static_cast<std::uint64_t>(descriptor.fd.value), F_GETFD});
    }
    if (program.empty()) return {};
    RELIVE_TRY(visit_.run(program));
    for (std::size_t index = 0; index < table_.descriptors.size(); ++index) {
      table_.descriptors[index].close_on_exec = (program.result(index) & FD_CLOEXEC) != 0;
    }
    return {};
  }

  Result<void> read_one(model::Descriptor& descriptor) {
    const std::string& link = links_[static_cast<std::size_t>(&descriptor - table_.descriptors.data())];
    const UniqueFd duplicate = RELIVE_TRY(task_.borrow(descriptor.fd));
    struct stat status{};
    if (::fstat(duplicate.get(), &status) != 0) return fail_errno("fstat", link);
    const int flags = ::fcntl(duplicate.get(), F_GETFL);
    if (flags < 0) return fail_errno("fcntl F_GETFL", link);
    const off_t position = ::lseek(duplicate.get(), 0, SEEK_CUR);
    Key key{.type = status.st_mode & S_IFMT,
            .device = status.st_dev,
            .inode = status.st_ino,
            .flags = static_cast<std::uint32_t>(flags),
            .position = std::max<off_t>(position, 0)};
    model::EventCounter counter;
    const bool is_counter = link == "anon_inode:[eventfd]";
    if (is_counter) {
      counter = RELIVE_TRY(parse_event_counter(RELIVE_TRY(fdinfo(descriptor.fd))));
      key.id = counter.id;
    }
    for (std::size_t index = 0; index < keys_.size(); ++index) {
      if (keys_[index] == key && RELIVE_TRY(same_file(tid_, first_[index].value, tid_, descriptor.fd.value))) {
        descriptor.open_file = index;
        return {};
      }
    }
    OpenFile file;
    file.status_flags = static_cast<std::uint32_t>(flags);
    if ((flags & O_PATH) == 0) read_owner(duplicate.get(), file);
    file.object = is_counter ? FileObject(counter)
                             : RELIVE_TRY(read_object(descriptor.fd, duplicate.get(), link, status, key, file));
    descriptor.open_file = table_.open_files.size();
    table_.open_files.push_back(std::move(file));
    keys_.push_back(key);
    first_.push_back(descriptor.fd);
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

  Result<FileObject> read_object(RemoteFd fd, int duplicate, const std::string& link, const struct stat& status,
                                 const Key& key, OpenFile& file) {
    if (link == "anon_inode:[eventpoll]") return FileObject(RELIVE_TRY(parse_epoll_set(RELIVE_TRY(fdinfo(fd)))));
    if (std::string kind = unhandled_kind(link); !kind.empty()) return FileObject(UnhandledFile{std::move(kind)});
    const model::FileIdentity identity{.device = status.st_dev, .inode = status.st_ino};
    const bool path_only = (key.flags & O_PATH) != 0;
    switch (key.type) {
      case S_IFREG:
      case S_IFDIR:
        file.locked = has_lock(RELIVE_TRY(fdinfo(fd)));
        return FileObject(model::RegularFile{.path = link,
                                             .identity = identity,
                                             .directory = key.type == S_IFDIR,
                                             .deleted = status.st_nlink == 0,
                                             .position = key.position});
      case S_IFCHR: {
        const bool memory = major(status.st_rdev) == 1;
        const bool terminal = is_terminal(status.st_rdev);
        if (!memory && !terminal) return FileObject(UnhandledFile{fmt::format("device ({})", link)});
        file.locked = has_lock(RELIVE_TRY(fdinfo(fd)));
        return FileObject(model::DeviceFile{.path = link,
                                            .identity = identity,
                                            .device_number = status.st_rdev,
                                            .position = key.position,
                                            .terminal = terminal});
      }
      case S_IFBLK:
        return FileObject(UnhandledFile{fmt::format("block device ({})", link)});
      case S_IFIFO:
        if (path_only || !link.starts_with("pipe:["))
          return FileObject(UnhandledFile{fmt::format("named pipe ({})", link)});
        return FileObject(RELIVE_TRY(read_pipe(duplicate, identity, key.flags)));
      case S_IFSOCK:
        if (path_only) return FileObject(UnhandledFile{fmt::format("O_PATH reference to a socket ({})", link)});
        return read_socket(duplicate, status.st_ino, diagnoser_);
      default:
        return FileObject(UnhandledFile{fmt::format("file of an unknown kind ({})", link)});
    }
  }

  static Result<PipeEnd> read_pipe(int duplicate, model::FileIdentity identity, std::uint32_t flags) {
    const int capacity = ::fcntl(duplicate, F_GETPIPE_SZ);
    if (capacity < 0) return fail_errno("fcntl F_GETPIPE_SZ", "pipe");
    return PipeEnd{.identity = identity,
                   .write_end = (flags & O_ACCMODE) == O_WRONLY,
                   .outside = false,
                   .capacity = static_cast<std::uint32_t>(capacity),
                   .bytes = {}};
  }

  // Copies the unread bytes by tee(2) into a pipe of ours, so that they stay unread.
  static Result<std::vector<std::byte>> peek_pipe(int read_end, std::uint32_t capacity) {
    int unread = 0;
    if (::ioctl(read_end, FIONREAD, &unread) != 0) return fail_errno("ioctl FIONREAD", "pipe");
    std::vector<std::byte> bytes(static_cast<std::size_t>(unread));
    if (unread == 0) return bytes;
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno("pipe2", "");
    const UniqueFd out(ends[0]);
    const UniqueFd in(ends[1]);
    if (::fcntl(in.get(), F_SETPIPE_SZ, capacity) < 0) return fail_errno("fcntl F_SETPIPE_SZ", "a pipe of relive's");
    const ssize_t copied = ::tee(read_end, in.get(), bytes.size(), SPLICE_F_NONBLOCK);
    if (copied < 0) return fail_errno("tee", "pipe");
    std::size_t done = 0;
    while (done < static_cast<std::size_t>(copied)) {
      const ssize_t size = ::read(out.get(), bytes.data() + done, bytes.size() - done);
      if (size <= 0) break;
      done += static_cast<std::size_t>(size);
    }
    if (done != bytes.size()) return fail(ErrorKind::system, "the unread bytes of a pipe could not be copied whole");
    return bytes;
  }

  // Which pipes have an end outside, and the unread bytes of the others.
  Result<void> complete_pipes() {
    for (std::size_t index = 0; index < table_.open_files.size(); ++index) {
      auto* const end = std::get_if<PipeEnd>(&table_.open_files[index].object);
      if (end == nullptr) continue;
      const bool whole = std::ranges::any_of(table_.open_files, [&](const OpenFile& other) {
        const auto* const partner = std::get_if<PipeEnd>(&other.object);
        return partner != nullptr && partner->identity == end->identity && partner->write_end != end->write_end;
      });
      const UniqueFd duplicate = RELIVE_TRY(task_.borrow(first_[index]));
      // No partner here: poll says whether there is one at all (POLLHUP: no writer, POLLERR: no reader; pipe(7)).
      pollfd one{.fd = duplicate.get(), .events = 0, .revents = 0};
      end->outside = !whole && (::poll(&one, 1, 0) != 1 || (one.revents & (POLLHUP | POLLERR)) == 0);
      const bool packets = (table_.open_files[index].status_flags & O_DIRECT) != 0;
      if (end->write_end || end->outside || packets) continue;
      end->bytes = RELIVE_TRY(peek_pipe(duplicate.get(), end->capacity));
    }
    return {};
  }

  // Does each entry watch the file that is under its number now?
  Result<void> complete_epoll_sets() {
    for (std::size_t index = 0; index < table_.open_files.size(); ++index) {
      auto* const set = std::get_if<model::EpollSet>(&table_.open_files[index].object);
      if (set == nullptr) continue;
      std::uint32_t offset = 0;  // among entries with the same number
      for (std::size_t at = 0; at < set->entries.size(); ++at) {
        model::EpollEntry& entry = set->entries[at];
        offset = at > 0 && set->entries[at - 1].fd == entry.fd ? offset + 1 : 0;
        const auto found = std::ranges::lower_bound(table_.descriptors, entry.fd, {}, &model::Descriptor::fd);
        if (found == table_.descriptors.end() || found->fd != entry.fd) {
          entry.stale = true;
          continue;
        }
        kcmp_epoll_slot slot{.efd = static_cast<std::uint32_t>(first_[index].value),
                             .tfd = static_cast<std::uint32_t>(entry.fd.value),
                             .toff = offset};
        const long answer = ::syscall(SYS_kcmp, tid_, tid_, KCMP_EPOLL_TFD, entry.fd.value, &slot);
        if (answer < 0) return fail_errno("kcmp", "KCMP_EPOLL_TFD");
        entry.stale = answer != 0;
        if (!entry.stale) table_.open_files[found->open_file].watched = true;
      }
    }
    return {};
  }

  // Peers outside are none of ours; between two sockets of the task, the unread bytes are.
  Result<void> complete_unix_sockets() {
    for (std::size_t index = 0; index < table_.open_files.size(); ++index) {
      auto* const socket = std::get_if<StreamSocket>(&table_.open_files[index].object);
      if (socket == nullptr || socket->peer_inode == 0) continue;
      const bool inside = std::ranges::any_of(table_.open_files, [&](const OpenFile& other) {
        const auto* const peer = std::get_if<StreamSocket>(&other.object);
        return peer != nullptr && peer->inode == socket->peer_inode;
      });
      if (!inside) {
        socket->peer_inode = 0;
        socket->shutdown = 0;
        continue;
      }
      const UniqueFd duplicate = RELIVE_TRY(task_.borrow(first_[index]));
      socket->received =
          RELIVE_TRY(with_context(peek_received(duplicate.get()), fmt::format("descriptor {}", first_[index].value)));
    }
    return {};
  }

  // Is `living` (under the number `fd`) the very description that `wanted` was?
  Result<bool> is_same(std::size_t wanted_index, const OpenFile& wanted, const OpenFile& living, RemoteFd fd) const {
    if (wanted.object.index() != living.object.index()) return false;
    if (holds_ != nullptr) {
      if (const auto held = holds_->open_files.find(wanted_index); held != holds_->open_files.end()) {
        // A cheap key first: descriptions of other files need no kcmp.
        if (identity_of(wanted) != identity_of(living)) return false;
        return same_file(::getpid(), held->second.get(), tid_, fd.value);
      }
    }
    if (const auto* const pipe = std::get_if<PipeEnd>(&wanted.object)) {
      const auto& other = std::get<PipeEnd>(living.object);
      return pipe->identity == other.identity && pipe->write_end == other.write_end;
    }
    if (const auto* const counter = std::get_if<model::EventCounter>(&wanted.object)) {
      return counter->id == std::get<model::EventCounter>(living.object).id;
    }
    if (const auto* const socket = std::get_if<StreamSocket>(&wanted.object)) {
      return socket->inode == std::get<StreamSocket>(living.object).inode;
    }
    // Files that may not be held (a terminal in an epoll set): the same file, opened in the same way.
    if (std::holds_alternative<model::RegularFile>(wanted.object) ||
        std::holds_alternative<model::DeviceFile>(wanted.object)) {
      return identity_of(wanted) == identity_of(living) &&
             (wanted.status_flags & O_ACCMODE) == (living.status_flags & O_ACCMODE);
    }
    return false;
  }

  static model::FileIdentity identity_of(const OpenFile& file) {
    if (const auto* const regular = std::get_if<model::RegularFile>(&file.object)) return regular->identity;
    if (const auto* const device = std::get_if<model::DeviceFile>(&file.object)) return device->identity;
    return {};
  }

  Result<void> find_in_snapshot() {
    if (snapshot_ == nullptr) return {};
    std::vector<bool> taken(snapshot_->open_files.size(), false);
    const auto find = [&](std::size_t index, std::size_t wanted) -> Result<bool> {
      if (taken[wanted]) return false;
      if (!RELIVE_TRY(is_same(wanted, snapshot_->open_files[wanted], table_.open_files[index], first_[index])))
        return false;
      taken[wanted] = true;
      table_.open_files[index].same_as = wanted;
      return true;
    };
    // Most are where they were.
    for (std::size_t index = 0; index < table_.open_files.size(); ++index) {
      const auto there = std::ranges::lower_bound(snapshot_->descriptors, first_[index], {}, &model::Descriptor::fd);
      if (there != snapshot_->descriptors.end() && there->fd == first_[index])
        RELIVE_TRY(find(index, there->open_file));
    }
    for (std::size_t index = 0; index < table_.open_files.size(); ++index) {
      for (std::size_t wanted = 0; !table_.open_files[index].same_as && wanted < taken.size(); ++wanted) {
        RELIVE_TRY(find(index, wanted));
      }
    }
    return {};
  }

  Result<std::string> fdinfo(RemoteFd fd) const {
    return task::read_proc(task_.pid(), fmt::format("task/{}/fdinfo/{}", tid_, fd.value));
  }

  parasite::Visit& visit_;
  task::FrozenTask& task_;
  pid_t tid_;
  const DescriptorTable* snapshot_;
  const Holds* holds_;
  int directory_ = -1;
  DescriptorTable table_;
  std::vector<std::string> links_;  // by descriptor
  std::vector<Key> keys_;           // by open file
  std::vector<RemoteFd> first_;     // by open file: its lowest number
  UnixDiagnoser diagnoser_;
};

}  // namespace

Result<DescriptorTable> read_descriptors(parasite::Visit& visit, const DescriptorTable* snapshot, const Holds* holds) {
  return with_context(Reader(visit, snapshot, holds).read(), "reading the descriptor table");
}

Result<void> hold_descriptors(parasite::Visit& visit, const DescriptorTable& table, Holds& holds) {
  for (const model::Descriptor& descriptor : table.descriptors) {
    if (!model::may_be_held(table.open_files[descriptor.open_file])) continue;
    if (holds.open_files.contains(descriptor.open_file)) continue;
    holds.open_files.emplace(descriptor.open_file, RELIVE_TRY(visit.task().borrow(descriptor.fd)));
  }
  return {};
}

std::vector<std::string> unhandled(const DescriptorTable& table) {
  std::vector<std::string> reasons;
  for (const model::Descriptor& descriptor : table.descriptors) {
    const OpenFile& file = table.open_files[descriptor.open_file];
    const int fd = descriptor.fd.value;
    if (const auto* const other = std::get_if<UnhandledFile>(&file.object)) {
      const std::string kind = other->what.substr(0, other->what.find(" ("));
      const std::string_view article =
          std::string_view("aeioAEIO").contains(kind.front()) ? "an" : "a";  // a unix socket, a UDP socket
      reasons.push_back(
          fmt::format("descriptor {} is {} {}; this release does not roll back {}s", fd, article, other->what, kind));
    }
    if (file.locked) {
      reasons.push_back(fmt::format("descriptor {} ({}) holds a lock or a lease; this release does not roll back locks",
                                    fd, model::describe(file)));
    }
    if (std::holds_alternative<PipeEnd>(file.object) && (file.status_flags & O_DIRECT) != 0) {
      reasons.push_back(
          fmt::format("descriptor {} is a packet pipe (O_DIRECT); this release does not roll back packet pipes", fd));
    }
    if (const auto* const set = std::get_if<model::EpollSet>(&file.object)) {
      for (const model::EpollEntry& entry : set->entries) {
        if (!entry.stale) continue;
        reasons.push_back(fmt::format(
            "descriptor {} is an epoll set that watches a file which is no longer under its number {}; this "
            "release does not roll back such entries",
            fd, entry.fd.value));
      }
    }
  }
  return reasons;
}

Result<model::EventCounter> parse_event_counter(std::string_view fdinfo) {
  const auto count = word_after(fdinfo, "eventfd-count:");
  if (!count) return fail(ErrorKind::system, "fdinfo of an eventfd tells no count");
  model::EventCounter counter;
  counter.count = number_in(*count, 16);
  if (const auto id = word_after(fdinfo, "eventfd-id:")) counter.id = number_in(*id, 10);
  const auto semaphore = word_after(fdinfo, "eventfd-semaphore:");
  counter.semaphore_told = semaphore.has_value();
  if (semaphore) counter.semaphore = number_in(*semaphore, 10) != 0;
  return counter;
}

Result<model::EpollSet> parse_epoll_set(std::string_view fdinfo) {
  model::EpollSet set;
  while (!fdinfo.empty()) {
    const std::size_t end = std::min(fdinfo.find('\n'), fdinfo.size());
    const std::string_view line = fdinfo.substr(0, end);
    fdinfo.remove_prefix(std::min(end + 1, fdinfo.size()));
    if (!line.starts_with("tfd:")) continue;
    const auto fd = word_after(line, "tfd:");
    const auto events = word_after(line, "events:");
    const auto data = word_after(line, "data:");
    if (!fd || !events || !data) return fail(ErrorKind::system, fmt::format("fdinfo of an epoll set: '{}'", line));
    set.entries.push_back({.fd = RemoteFd{static_cast<int>(number_in(*fd, 10))},
                           .events = static_cast<std::uint32_t>(number_in(*events, 16)),
                           .data = number_in(*data, 16),
                           .stale = false});
  }
  std::ranges::stable_sort(set.entries, {}, &model::EpollEntry::fd);
  return set;
}

bool has_lock(std::string_view fdinfo) { return fdinfo.find("\nlock:") != std::string_view::npos; }

std::string unhandled_kind(std::string_view link) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 9> kAnonymous{{
      {"[timerfd]", "timerfd"},
      {"[signalfd]", "signalfd"},
      {"inotify", "inotify instance"},
      {"[fanotify]", "fanotify group"},
      {"[pidfd]", "pidfd"},
      {"[io_uring]", "io_uring"},
      {"[userfaultfd]", "userfaultfd"},
      {"[perf_event]", "perf event"},
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
  if (link.starts_with("/memfd:")) return fmt::format("memfd ({})", link);
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
