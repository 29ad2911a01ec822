#include "image/files.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <utility>

#include "base/overloaded.h"

namespace relive::image {

namespace {

// fcntl(2): O_LARGEFILE is 0 in glibc on x86-64, the kernel sets it all the same and CRIU keeps it.
constexpr std::uint32_t kCloseOnExec = 1;  // FD_CLOEXEC

// pb::FileLock.kind and .type.
constexpr std::uint32_t kPosix = 1;
constexpr std::uint32_t kFlock = 2;
constexpr std::uint32_t kOpenFile = 4;
constexpr std::uint32_t kLease = 8;

void locks_to(const ImagedTask& task, const model::OpenFile& file, std::uint32_t id, int fd, FileWriting& out,
              pb::ExtraTask& extra) {
  for (const model::FileLock& lock : file.locks) {
    pb::ExtraLock& more = *extra.add_locks();
    more.set_file(id);
    more.set_kind(static_cast<std::uint32_t>(lock.kind));
    more.set_mode(static_cast<std::uint32_t>(lock.mode));
    more.set_first(lock.first);
    more.set_last(lock.last);
    more.set_breaking(lock.breaking);
    more.set_device(lock.file.device);
    more.set_inode(lock.file.inode);
    pb::FileLock made;
    switch (lock.kind) {
      case model::LockKind::posix:
        made.set_kind(kPosix);
        break;
      case model::LockKind::flock:
        made.set_kind(kFlock);
        break;
      case model::LockKind::open_file:
        made.set_kind(kOpenFile);
        break;
      case model::LockKind::lease:
        made.set_kind(kLease);
        break;
      case model::LockKind::other:
        continue;
    }
    made.set_type(lock.mode == model::LockMode::read    ? F_RDLCK
                  : lock.mode == model::LockMode::write ? F_WRLCK
                                                        : F_UNLCK);
    made.set_pid(task.task.pid.value);
    made.set_fd(fd);
    const bool whole = lock.kind == model::LockKind::flock || lock.kind == model::LockKind::lease;
    made.set_start(whole ? 0 : static_cast<std::int64_t>(lock.first));
    made.set_length(whole || lock.last >= model::kLockToEnd ? 0
                                                            : static_cast<std::int64_t>(lock.last - lock.first + 1));
    out.parts.locks.push_back(made);
  }
}

// The locks that go with the descriptor `fd` of the task.
std::vector<model::FileLock> locks_from(std::uint32_t pid, std::uint32_t fd, const FileReading& in) {
  std::vector<model::FileLock> locks;
  const auto found = in.locks.find({static_cast<std::int32_t>(pid), static_cast<std::int32_t>(fd)});
  if (found == in.locks.end()) return locks;
  for (const std::size_t i : found->second) {
    const pb::FileLock& from = in.parts.locks[i];
    const auto bad = [&](std::string what) { in.findings.damaged(file_name(FileKind::locks), i, std::move(what)); };
    model::FileLock lock;
    switch (from.kind()) {
      case kPosix:
        lock.kind = model::LockKind::posix;
        break;
      case kFlock:
        lock.kind = model::LockKind::flock;
        break;
      case kOpenFile:
        lock.kind = model::LockKind::open_file;
        break;
      case kLease:
        lock.kind = model::LockKind::lease;
        break;
      default:
        bad(fmt::format("a lock of kind {}", from.kind()));
        continue;
    }
    if (from.start() < 0 || from.length() < 0 ||
        from.start() > std::numeric_limits<std::int64_t>::max() - from.length()) {
      bad(fmt::format("a lock of {} bytes from {} on", from.length(), from.start()));
      continue;
    }
    constexpr std::uint32_t kTypeMask = 3;  // beside it: a lease that is being broken
    const std::uint32_t type = from.type() & kTypeMask;
    lock.mode = type == F_RDLCK   ? model::LockMode::read
                : type == F_WRLCK ? model::LockMode::write
                                  : model::LockMode::none;
    lock.first = static_cast<std::uint64_t>(from.start());
    lock.last = from.length() == 0 ? model::kLockToEnd : static_cast<std::uint64_t>(from.start() + from.length() - 1);
    locks.push_back(lock);
  }
  return locks;
}

const pb::ExtraFile* extra_of(const FileReading& in, std::uint32_t id) {
  const auto at = in.extras.find(id);
  return at == in.extras.end() ? nullptr : at->second;
}

// About how much of the model a file becomes.
std::uint64_t size_of(const pb::File& file, const FileReading& in) {
  std::uint64_t size = 2 * file.ByteSizeLong();
  if (file.has_pipe()) {
    const auto contents = in.parts.pipes.find(file.pipe().pipe());
    if (contents != in.parts.pipes.end()) size += contents->second.bytes.size();
  }
  const auto queue = in.parts.queues.find(file.id());
  if (queue != in.parts.queues.end())
    for (const WaitingMessage& message : queue->second) size += sizeof(model::Message) + message.bytes.size();
  return size;
}

// One open file, by its kind.
std::optional<model::OpenFile> file_from(const pb::File& file, const pb::ExtraFile* extra, const FileReading& in) {
  model::OpenFile open;
  using From = model::FileObject (*)(const pb::File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
  const auto known = [&](bool there, std::uint32_t inner, From from) -> std::optional<model::OpenFile> {
    if (!there) {
      in.damaged(file.id(), fmt::format("is said to be a {}, and is none", type_name(file.type())));
      return std::nullopt;
    }
    if (inner != file.id()) in.damaged(file.id(), fmt::format("has the id {} inside", inner));
    open.object = from(file, extra, in, open);
    return std::move(open);
  };
  switch (static_cast<FileType>(file.type())) {
    case FileType::regular:
      return known(file.has_regular(), file.regular().id(), kinds::regular_from);
    case FileType::memory_file:
      return known(file.has_memory_file(), file.memory_file().id(), kinds::memory_file_from);
    case FileType::pipe:
      return known(file.has_pipe(), file.pipe().id(), kinds::pipe_from);
    case FileType::unix_socket:
      return known(file.has_unix_socket(), file.unix_socket().id(), kinds::unix_socket_from);
    case FileType::inet_socket:
      return known(file.has_inet(), file.inet().id(), kinds::inet_socket_from);
    case FileType::netlink_socket:
      return known(file.has_netlink_socket(), file.netlink_socket().id(), kinds::netlink_socket_from);
    case FileType::packet_socket:
      return known(file.has_packet_socket(), file.packet_socket().id(), kinds::packet_socket_from);
    case FileType::terminal:
      return known(file.has_terminal(), file.terminal().id(), kinds::terminal_from);
    case FileType::event_counter:
      return known(file.has_event_counter(), file.event_counter().id(), kinds::event_counter_from);
    case FileType::epoll:
      return known(file.has_epoll(), file.epoll().id(), kinds::epoll_from);
    case FileType::timer_file:
      return known(file.has_timer_file(), file.timer_file().id(), kinds::timer_from);
    case FileType::signal_file:
      return known(file.has_signal_file(), file.signal_file().id(), kinds::signal_file_from);
    case FileType::inotify:
      return known(file.has_inotify(), file.inotify().id(), kinds::inotify_from);
    case FileType::process_handle:
      return known(file.has_process_handle(), file.process_handle().id(), kinds::process_handle_from);
    case FileType::undefined:
    case FileType::fifo:
    case FileType::fanotify:
    case FileType::name_space:
    case FileType::tunnel:
    case FileType::external:
    case FileType::bpf_map:
      break;
  }
  in.unsupported(file.id(), fmt::format("is a {}, which relive does not handle", type_name(file.type())));
  open.object = model::UnhandledFile{.what = type_name(file.type())};
  return open;
}

// Why an image cannot have it; empty: it can.
std::string unwritable(const model::OpenFile& open) {
  if (const auto* unhandled = std::get_if<model::UnhandledFile>(&open.object))
    return fmt::format("{} cannot be part of an image", unhandled->what);
  const auto* const socket = std::get_if<model::Socket>(&open.object);
  if (std::holds_alternative<model::NamedPipe>(open.object) || std::holds_alternative<model::Tunnel>(open.object))
    return fmt::format("{} cannot be part of an image", model::describe(open));
  if (socket != nullptr && model::carries_files(*socket))
    return fmt::format("{} holds a message that carries open files: it cannot be part of an image",
                       model::describe(open));
  return {};
}

}  // namespace

std::string type_name(std::uint32_t type) {
  constexpr std::array kNames{"file of no type",
                              "file",
                              "pipe",
                              "named pipe",
                              "internet socket",
                              "unix socket",
                              "eventfd",
                              "epoll set",
                              "inotify instance",
                              "signalfd",
                              "packet socket",
                              "terminal",
                              "fanotify instance",
                              "netlink socket",
                              "namespace",
                              "tun device",
                              "external file",
                              "timerfd",
                              "memfd",
                              "BPF map",
                              "pidfd"};
  if (type < kNames.size()) return kNames[type];
  return fmt::format("file of type {}", type);
}

void FileReading::damaged(std::uint32_t file, std::string what) const {
  findings.damaged(file_name(FileKind::files), std::nullopt, fmt::format("file {}: {}", file, what));
}

void FileReading::unsupported(std::uint32_t file, std::string what) const {
  findings.unsupported(file_name(FileKind::files), std::nullopt, fmt::format("file {} {}", file, what));
}

void owner_to(const model::OpenFile& file, pb::Owner& owner) {
  owner.set_uid(0);
  owner.set_euid(0);
  owner.set_signal(static_cast<std::uint32_t>(file.owner_signal));
  owner.set_type(file.owner == 0 ? 0 : static_cast<std::uint32_t>(file.owner_type));
  owner.set_pid(static_cast<std::uint32_t>(file.owner));
}

void owner_from(const pb::Owner& owner, model::OpenFile& file) {
  file.owner = static_cast<std::int32_t>(owner.pid());
  file.owner_type = static_cast<std::int32_t>(owner.type());
  file.owner_signal = static_cast<std::int32_t>(owner.signal());
}

std::uint32_t flags_to(const model::OpenFile& file) { return file.status_flags; }

Result<void> table_to(ImagedTask& task, FileWriting& out, pb::ExtraTask& extra) {
  const model::DescriptorTable& table = task.descriptors;
  const bool fresh = task.file_ids.empty();
  if (fresh)
    for (std::size_t i = 0; i < table.open_files.size(); ++i) task.file_ids.push_back(out.new_file());
  std::vector<int> first_fd(table.open_files.size(), -1);
  for (const model::Descriptor& descriptor : table.descriptors)
    if (first_fd[descriptor.open_file] < 0) first_fd[descriptor.open_file] = descriptor.fd.value;

  std::map<std::uint32_t, pb::ExtraFile> extras;
  for (std::size_t i = 0; i < table.open_files.size(); ++i) {
    const model::OpenFile& open = table.open_files[i];
    const std::uint32_t id = task.file_ids[i];
    locks_to(task, open, id, first_fd[i], out, extra);
    const bool first = out.first_told(id);  // else another table leads to it, too
    pb::ExtraFile none;
    pb::ExtraFile& more = first ? extras[id] : none;
    more.set_id(id);
    if (open.watched) more.set_watched(true);
    if (const auto* queue = std::get_if<model::MessageQueue>(&open.object)) {
      pb::ExtraQueue& made = *extra.add_queues();
      made.set_id(id);
      made.set_path(queue->path);
      made.set_position(queue->position);
      made.set_flags(open.status_flags);
      owner_to(open, *made.mutable_owner());
      more.set_device(queue->identity.device);
      more.set_inode(queue->identity.inode);
      more.set_notifies(queue->notifies);
      continue;
    }
    if (!first) continue;
    if (const std::string reason = unwritable(open); !reason.empty()) return fail(ErrorKind::refused, reason);
    pb::File& file = out.parts.files[id];
    file.set_id(id);
    const model::Process& process = task.task.process;
    std::visit(Overloaded{
                   [&](const model::RegularFile& object) { kinds::regular_to(open, object, i, out, file, more); },
                   [&](const model::DeviceFile& object) { kinds::device_to(open, object, file, more); },
                   [&](const model::PipeEnd& object) { kinds::pipe_to(open, object, out, file, more); },
                   [&](const model::EventCounter& object) { kinds::event_counter_to(open, object, file, more); },
                   [&](const model::EpollSet& object) { kinds::epoll_to(open, object, file, more); },
                   [&](const model::Socket& object) { kinds::socket_to(open, object, out, file, more); },
                   [&](const model::TimerFile& object) { kinds::timer_to(open, object, file, more); },
                   [&](const model::SignalFile& object) { kinds::signal_file_to(open, object, file, more); },
                   [&](const model::InotifySet& object) { kinds::inotify_to(open, object, file, more); },
                   [&](const model::ProcessHandle& object) { kinds::process_handle_to(open, object, file, more); },
                   [&](const model::Terminal& object) { kinds::terminal_to(open, object, process, out, file, more); },
                   [](const model::MessageQueue&) {},
                   [](const model::NamedPipe&) {},
                   [](const model::Tunnel&) {},
                   [](const model::UnhandledFile&) {},
               },
               open.object);
  }
  for (auto& [id, more] : extras) *extra.add_files() = std::move(more);

  auto& descriptors = out.parts.tables[task.shared.files];
  const bool told = !descriptors.empty();  // by another task of the same table
  for (const model::Descriptor& descriptor : table.descriptors) {
    const std::uint32_t id = task.file_ids[descriptor.open_file];
    const std::uint32_t flags = descriptor.close_on_exec ? kCloseOnExec : 0;
    if (!out.parts.files.contains(id)) {
      pb::ExtraDescriptor& made = *extra.add_descriptors();
      made.set_fd(static_cast<std::uint32_t>(descriptor.fd.value));
      made.set_flags(flags);
      made.set_file(id);
    } else if (!told) {
      pb::Descriptor& made = descriptors.emplace_back();
      made.set_file(id);
      made.set_flags(flags);
      made.set_type(out.parts.files[id].type());
      made.set_fd(static_cast<std::uint32_t>(descriptor.fd.value));
    }
  }
  return {};
}

void table_from(std::uint32_t table, const pb::ExtraTask* extra, const FileReading& in, ImagedTask& task) {
  const auto pid = static_cast<std::uint32_t>(task.task.pid.value);
  model::DescriptorTable& to = task.descriptors;
  std::map<std::uint32_t, std::size_t> index;  // by id
  const std::string name = file_name(FileKind::fdinfo, table);

  const auto add = [&](std::uint32_t id, model::OpenFile open) {
    const pb::ExtraFile* const more = extra_of(in, id);
    open.watched = more != nullptr && more->watched();
    index.emplace(id, to.open_files.size());
    task.file_ids.push_back(id);
    to.open_files.push_back(std::move(open));
  };
  const auto found = in.parts.tables.find(table);
  std::set<std::uint32_t> seen;
  if (found != in.parts.tables.end()) {
    for (std::size_t i = 0; i < found->second.size(); ++i) {
      const pb::Descriptor& from = found->second[i];
      const auto bad = [&](std::string what) { in.findings.damaged(name, i, std::move(what)); };
      constexpr std::uint32_t kHighest = 0x7fffffff;
      if (from.fd() > kHighest) {
        bad(fmt::format("descriptor {}", from.fd()));
        continue;
      }
      if (!seen.insert(from.fd()).second) {
        bad(fmt::format("descriptor {} is there twice", from.fd()));
        continue;
      }
      const auto file = in.parts.files.find(from.file());
      if (file == in.parts.files.end()) {
        bad(fmt::format("descriptor {} leads to file {}, which is not in {}", from.fd(), from.file(),
                        file_name(FileKind::files)));
        continue;
      }
      if (file->second.type() != from.type())
        bad(fmt::format("descriptor {} leads to a {}, and file {} is a {}", from.fd(), type_name(from.type()),
                        from.file(), type_name(file->second.type())));
      if (!in.budget.take_model(sizeof(model::OpenFile) + sizeof(model::Descriptor) + size_of(file->second, in))) {
        bad("the tables of all tasks are too large together");
        break;
      }
      if (!index.contains(from.file())) {
        auto open = file_from(file->second, extra_of(in, from.file()), in);
        if (!open) continue;
        add(from.file(), *std::move(open));
      }
      const std::size_t at = index[from.file()];
      for (model::FileLock& lock : locks_from(pid, from.fd(), in)) to.open_files[at].locks.push_back(lock);
      to.descriptors.push_back({{static_cast<int>(from.fd())}, (from.flags() & kCloseOnExec) != 0, at});
    }
  }
  if (extra != nullptr) {
    for (const pb::ExtraQueue& queue : extra->queues()) {
      if (index.contains(queue.id()) || in.parts.files.contains(queue.id())) continue;
      model::OpenFile open;
      open.status_flags = queue.flags();
      owner_from(queue.owner(), open);
      const pb::ExtraFile* const more = extra_of(in, queue.id());
      model::MessageQueue made{.path = queue.path(), .identity = {}, .position = queue.position(), .notifies = false};
      if (more != nullptr) {
        made.identity = {more->device(), more->inode()};
        made.notifies = more->notifies();
      }
      open.object = std::move(made);
      add(queue.id(), std::move(open));
    }
    for (const pb::ExtraDescriptor& from : extra->descriptors()) {
      const auto at = index.find(from.file());
      if (at == index.end() || from.fd() > 0x7fffffff || !seen.insert(from.fd()).second) continue;
      to.descriptors.push_back({{static_cast<int>(from.fd())}, (from.flags() & kCloseOnExec) != 0, at->second});
    }
    // Locks have an identity that CRIU's entries lack.
    std::map<std::uint32_t, std::size_t> taken;
    for (const pb::ExtraLock& from : extra->locks()) {
      const auto at = index.find(from.file());
      if (at == index.end()) continue;
      auto& locks = to.open_files[at->second].locks;
      const std::size_t place = taken[from.file()]++;
      if (from.kind() == static_cast<std::uint32_t>(model::LockKind::other)) continue;
      if (place >= locks.size() || static_cast<std::uint32_t>(locks[place].kind) != from.kind()) continue;
      locks[place].file = {from.device(), from.inode()};
      locks[place].breaking = from.breaking();
    }
  }
  std::ranges::sort(to.descriptors, {}, &model::Descriptor::fd);
}

}  // namespace relive::image
