#include "apply/descriptors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "apply/file_maker.h"
#include "apply/hung_up.h"
#include "apply/self_contained.h"
#include "base/fault.h"
#include "capture/descriptors.h"

namespace relive::apply {

namespace {

using model::OpenFile;
using model::RemoteFd;
using model::SocketState;
using model::StreamSocket;
using parasite::Program;

// The path of a unix address in the file system; empty for an abstract address or none.
std::string path_of(const StreamSocket& socket) {
  constexpr std::size_t kPath = offsetof(sockaddr_un, sun_path);
  if (socket.family != AF_UNIX || socket.local.size() <= kPath || socket.local[kPath] == std::byte{0}) return {};
  return model::address_text(socket.local);
}

class Executor {
 public:
  Executor(Workshop& workshop, const model::DescriptorTable& wanted, const model::DescriptorTable& living)
      : workshop_(workshop), wanted_(wanted), living_(living), maker_(workshop) {}

  Result<void> prepare(const diff::DescriptorPlan& plan) {
    const std::vector<RemoteFd> numbers = numbers_of(wanted_);
    visit().keep_clear({}, numbers);
    RELIVE_TRY(check_limit(plan));
    for (const diff::DescriptorOperation& operation : plan.operations) {
      RELIVE_TRY(with_context(std::visit(*this, operation), diff::text(operation)));
    }
    maker_.close_spares();
    workshop_.notes.insert(workshop_.notes.end(), plan.notes.begin(), plan.notes.end());
    return {};
  }

  // ---------------------------------------------------------------- beside the living table
  Result<void> operator()(const diff::TakeHeld& op) {
    const auto held = workshop_.holds.open_files.find(op.file);
    if (held == workshop_.holds.open_files.end()) {
      return fail(ErrorKind::refused, fmt::format("{} is not held", model::describe(file(op.file))));
    }
    return maker_.give(op.file, held->second.get());
  }

  Result<void> operator()(const diff::TakeLiving& op) { return maker_.duplicate(op.file, op.from); }

  Result<void> operator()(const diff::MakePipe& op) {
    const OpenFile& some = file(op.read_end ? *op.read_end : op.write_end.value());
    const auto capacity = std::get<model::PipeEnd>(some.object).capacity;
    const auto [read_end, write_end] = RELIVE_TRY(maker_.make_two(
        "pipe", SYS_pipe2, [](std::uint64_t there) { return std::array<std::uint64_t, 4>{there, O_CLOEXEC, 0, 0}; }));
    {
      const UniqueFd writer = RELIVE_TRY(visit().task().borrow(write_end));
      const int now = ::fcntl(writer.get(), F_GETPIPE_SZ);
      if (now != static_cast<int>(capacity) && ::fcntl(writer.get(), F_SETPIPE_SZ, capacity) < 0) {
        return fail_errno("fcntl F_SETPIPE_SZ", "a new pipe");
      }
      if (op.read_end) {
        const auto& bytes = std::get<model::PipeEnd>(file(*op.read_end).object).bytes;
        // Never blocks: the pipe is empty and holds what it held before.
        if (!bytes.empty() && ::write(writer.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
          return fail_errno("write", "a new pipe");
        }
      }
    }
    RELIVE_TRY(keep_or_close(op.read_end, read_end));
    return keep_or_close(op.write_end, write_end);
  }

  Result<void> operator()(const diff::MakeSelfContained& op) {
    return std::visit(
        [&]<class T>(const T& object) -> Result<void> {
          if constexpr (model::SelfContained<T>) return make(maker_, op.file, object);
          return fail(ErrorKind::system, "not self-contained");
        },
        file(op.file).object);
  }

  Result<void> operator()(const diff::MakeEpollSet& op) {
    return maker_.make_one(op.file, "epoll set", SYS_epoll_create1, {EPOLL_CLOEXEC, 0, 0});
  }

  Result<void> operator()(const diff::MakeSocket& op) {
    const auto& socket = std::get<StreamSocket>(file(op.file).object);
    RELIVE_TRY(maker_.make_one(op.file, "socket", SYS_socket,
                               {static_cast<std::uint64_t>(socket.family), SOCK_STREAM | SOCK_CLOEXEC,
                                static_cast<std::uint64_t>(socket.protocol)}));
    const RemoteFd spare = maker_.spare(op.file);
    const UniqueFd ours = RELIVE_TRY(visit().task().borrow(spare));
    RELIVE_TRY(set_options(ours.get(), socket));
    if (socket.state == SocketState::fresh) return {};
    return socket.family == AF_UNIX ? bind_unix(spare, socket) : bind_tcp(ours.get(), socket);
  }

  Result<void> operator()(const diff::MakeSocketPair& op) {
    const auto [first, second] = RELIVE_TRY(maker_.make_two("socket pair", SYS_socketpair, [](std::uint64_t there) {
      return std::array<std::uint64_t, 4>{AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, there};
    }));
    maker_.keep(op.first, first);
    maker_.keep(op.second, second);
    const auto& one = std::get<StreamSocket>(file(op.first).object);
    const auto& other = std::get<StreamSocket>(file(op.second).object);
    const UniqueFd ours = RELIVE_TRY(visit().task().borrow(first));
    const UniqueFd others = RELIVE_TRY(visit().task().borrow(second));
    RELIVE_TRY(set_options(ours.get(), one));
    RELIVE_TRY(set_options(others.get(), other));
    RELIVE_TRY(send_from(second, one.received));
    RELIVE_TRY(send_from(first, other.received));
    RELIVE_TRY(shut_down(ours.get(), one.shutdown));
    return shut_down(others.get(), other.shutdown);
  }

  Result<void> operator()(const diff::MakeHungUp& op) {
    const auto& socket = std::get<StreamSocket>(file(op.file).object);
    const UniqueFd ours = RELIVE_TRY(make_hung_up_socket(socket.family, socket.received));
    return maker_.give(op.file, ours.get());
  }

  Result<void> operator()(const diff::SetOption& op) {
    RELIVE_TRY(fault_point("socket option"));
    const auto level = static_cast<std::uint64_t>(op.option.level);
    const auto name = static_cast<std::uint64_t>(op.option.name);
    if (!op.living.empty()) {
      const auto before = RELIVE_TRY(visit().arena().put(op.living));
      RELIVE_TRY(visit().record_undo("setsockopt back", SYS_setsockopt,
                                     {FileMaker::number(op.from), level, name, before.value, op.living.size()}));
    }
    const auto there = RELIVE_TRY(visit().arena().put(op.option.value));
    RELIVE_TRY(visit().syscall(fmt::format("setsockopt {} {}/{}", op.from.value, level, name), SYS_setsockopt,
                               {FileMaker::number(op.from), level, name, there.value, op.option.value.size()}));
    return {};
  }

  // ---------------------------------------------------------------- the commit program
  Result<void> operator()(const diff::Unwatch& op) {
    maker_.commit(fmt::format("epoll_ctl {} DEL {}", op.epoll.value, op.fd.value), SYS_epoll_ctl,
                  {FileMaker::number(op.epoll), EPOLL_CTL_DEL, FileMaker::number(op.fd), 0});
    return {};
  }

  Result<void> operator()(const diff::CloseDescriptor& op) {
    FileMaker::close_in(workshop_.commit, op.fd);
    return {};
  }

  Result<void> operator()(const diff::Place& op) {
    const RemoteFd from = op.from ? *op.from : maker_.spare(op.file);
    maker_.commit(fmt::format("dup3 {} -> {}", from.value, op.to.value), SYS_dup3,
                  {FileMaker::number(from), FileMaker::number(op.to), op.close_on_exec ? std::uint64_t{O_CLOEXEC} : 0});
    return {};
  }

  Result<void> operator()(const diff::SetCloseOnExec& op) {
    maker_.commit(fmt::format("fcntl {} F_SETFD", op.fd.value), SYS_fcntl,
                  {FileMaker::number(op.fd), F_SETFD, op.on ? std::uint64_t{FD_CLOEXEC} : 0});
    return {};
  }

  Result<void> operator()(const diff::SetStatusFlags& op) {
    maker_.set_flags(op.fd, op.flags);
    return {};
  }

  Result<void> operator()(const diff::SetOwner& op) {
    if (op.owner != 0 && ::kill(op.type == F_OWNER_PGRP ? -op.owner : op.owner, 0) != 0 && errno == ESRCH) {
      return fail(ErrorKind::refused,
                  fmt::format("descriptor {}: the process {} that its signals go to (F_SETOWN) has ended", op.fd.value,
                              op.owner));
    }
    const f_owner_ex owner{.type = static_cast<decltype(f_owner_ex::type)>(op.owner == 0 ? F_OWNER_PID : op.type),
                           .pid = op.owner};
    const auto there = RELIVE_TRY(visit().arena().put_value(owner));
    maker_.commit(fmt::format("fcntl {} F_SETOWN_EX", op.fd.value), SYS_fcntl,
                  {FileMaker::number(op.fd), F_SETOWN_EX, there.value});
    maker_.commit(fmt::format("fcntl {} F_SETSIG", op.fd.value), SYS_fcntl,
                  {FileMaker::number(op.fd), F_SETSIG, static_cast<std::uint64_t>(op.signal)});
    return {};
  }

  Result<void> operator()(const diff::Seek& op) {
    maker_.commit(fmt::format("lseek {} {}", op.fd.value, op.position), SYS_lseek,
                  {FileMaker::number(op.fd), static_cast<std::uint64_t>(op.position), SEEK_SET});
    return {};
  }

  Result<void> operator()(const diff::Unlock& op) {
    struct flock whole{};
    whole.l_type = F_UNLCK;
    whole.l_whence = SEEK_SET;
    const auto there = RELIVE_TRY(visit().arena().put_value(whole));
    // Of four kinds of locks, those that are not there answer with an error or do nothing.
    const std::string name = fmt::format("unlock {}", op.fd.value);
    workshop_.commit.syscall(name, SYS_flock, {FileMaker::number(op.fd), LOCK_UN}, Program::OnError::go_on);
    workshop_.commit.syscall(name, SYS_fcntl, {FileMaker::number(op.fd), F_SETLK, there.value},
                             Program::OnError::go_on);
    workshop_.commit.syscall(name, SYS_fcntl, {FileMaker::number(op.fd), F_OFD_SETLK, there.value},
                             Program::OnError::go_on);
    workshop_.commit.syscall(name, SYS_fcntl, {FileMaker::number(op.fd), F_SETLEASE, F_UNLCK}, Program::OnError::go_on);
    return {};
  }

  Result<void> operator()(const diff::RefillPipe& op) {
    const auto& bytes = std::get<model::PipeEnd>(file(op.file).object).bytes;
    RELIVE_TRY(maker_.drain(op.read_end, op.read_flags));
    if (bytes.empty()) return {};
    const auto there = RELIVE_TRY(visit().arena().put(bytes));
    // Never blocks: the pipe is empty by now and held as much before. SIGPIPE never: the read end is in the table.
    maker_.commit(fmt::format("write {} bytes to pipe {}", bytes.size(), op.write_end.value), SYS_write,
                  {FileMaker::number(op.write_end), there.value, bytes.size()});
    return {};
  }

  Result<void> operator()(const diff::PutRight& op) {
    return std::visit(
        [&]<class T>(const T& object) -> Result<void> {
          if constexpr (model::SelfContained<T>)
            return put_right(maker_, op.fd, file(op.file).status_flags, object,
                             std::get<T>(living_.open_files.at(op.living).object));
          return fail(ErrorKind::system, "not self-contained");
        },
        file(op.file).object);
  }

  Result<void> operator()(const diff::Listen& op) {
    maker_.commit(fmt::format("listen {}", op.fd.value), SYS_listen,
                  {FileMaker::number(op.fd), static_cast<std::uint64_t>(op.backlog)});
    return {};
  }

  Result<void> operator()(const diff::Watch& op) {
    epoll_event event{};
    event.events = op.events;
    event.data.u64 = op.data;
    const auto there = RELIVE_TRY(visit().arena().put_value(event));
    maker_.commit(fmt::format("epoll_ctl {} {} {}", op.epoll.value, op.modify ? "MOD" : "ADD", op.fd.value),
                  SYS_epoll_ctl,
                  {FileMaker::number(op.epoll), static_cast<std::uint64_t>(op.modify ? EPOLL_CTL_MOD : EPOLL_CTL_ADD),
                   FileMaker::number(op.fd), there.value});
    return {};
  }

 private:
  parasite::Visit& visit() { return workshop_.visit; }
  [[nodiscard]] const OpenFile& file(std::size_t index) const { return wanted_.open_files.at(index); }
  // The numbers of the wanted table must be within the limit that dup3(2) meets.
  Result<void> check_limit(const diff::DescriptorPlan& plan) {
    RemoteFd highest{-1};
    for (const diff::DescriptorOperation& operation : plan.operations) {
      if (const auto* const place = std::get_if<diff::Place>(&operation)) highest = std::max(highest, place->to);
    }
    if (highest.value < 0) return {};
    const auto there = RELIVE_TRY(visit().arena().take(sizeof(rlimit)));
    RELIVE_TRY(visit().syscall("prlimit RLIMIT_NOFILE", SYS_prlimit64, {0, RLIMIT_NOFILE, 0, there.there.value}));
    rlimit limit{};
    std::memcpy(&limit, there.here, sizeof limit);
    if (FileMaker::number(highest) < limit.rlim_cur) return {};
    return fail(ErrorKind::refused,
                fmt::format("descriptor {} was closed since, and RLIMIT_NOFILE of the task is {}", highest.value,
                            limit.rlim_cur),
                "raise the task's RLIMIT_NOFILE (prlimit(1))");
  }

  Result<void> keep_or_close(const std::optional<std::size_t>& index, RemoteFd spare) {
    if (!index) return maker_.close(spare);
    maker_.keep(*index, spare);
    return {};
  }

  // Sets, on a duplicate of ours, the options in which a new socket differs from the wanted one.
  static Result<void> set_options(int ours, const StreamSocket& socket) {
    const auto fresh = capture::read_socket_options(ours, socket.family);
    for (const model::SocketOption& option : socket.options) {
      if (std::ranges::find(fresh, option) != fresh.end()) continue;
      if (::setsockopt(ours, option.level, option.name, option.value.data(),
                       static_cast<socklen_t>(option.value.size())) != 0) {
        return fail_errno("setsockopt", fmt::format("option {}/{} of a new socket", option.level, option.name));
      }
    }
    return {};
  }

  // On our duplicate: the port may be one that the task itself may no longer bind.
  static Result<void> bind_tcp(int ours, const StreamSocket& socket) {
    // Connections that the old socket had accepted must not stand in the way (SO_REUSEADDR, socket(7)).
    int before = 0;
    socklen_t size = sizeof before;
    const int on = 1;
    if (::getsockopt(ours, SOL_SOCKET, SO_REUSEADDR, &before, &size) != 0)
      return fail_errno("getsockopt", "SO_REUSEADDR");
    if (::setsockopt(ours, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0)
      return fail_errno("setsockopt", "SO_REUSEADDR");
    if (::bind(ours, reinterpret_cast<const sockaddr*>(socket.local.data()),
               static_cast<socklen_t>(socket.local.size())) != 0) {
      return address_error(socket, "bind", errno);
    }
    if (socket.state == SocketState::listening && ::listen(ours, socket.backlog) != 0)
      return address_error(socket, "listen", errno);
    if (::setsockopt(ours, SOL_SOCKET, SO_REUSEADDR, &before, sizeof before) != 0)
      return fail_errno("setsockopt", "SO_REUSEADDR");
    return {};
  }

  static Result<void> address_error(const StreamSocket& socket, std::string_view call, int error) {
    const std::string address = model::address_text(socket.local);
    if (error == EADDRINUSE || error == EADDRNOTAVAIL) {
      return fail(ErrorKind::refused, fmt::format("the address {} of a socket that was closed since is {}", address,
                                                  error == EADDRINUSE ? "taken by another socket" : "no longer there"));
    }
    return fail_errno(call, address, error);
  }

  // In the task: the peers of a unix socket see who listened, and the name is made with the task's rights.
  Result<void> bind_unix(RemoteFd spare, const StreamSocket& socket) {
    if (const std::string path = path_of(socket); !path.empty()) RELIVE_TRY(clear_path(path));
    const auto address = RELIVE_TRY(visit().arena().put(socket.local));
    Program program;
    program.syscall("bind", SYS_bind, {FileMaker::number(spare), address.value, socket.local.size()},
                    Program::OnError::go_on);
    RELIVE_TRY(visit().run(program));
    if (program.result(0) < 0) return address_error(socket, "bind", static_cast<int>(-program.result(0)));
    if (socket.state == SocketState::listening) {
      RELIVE_TRY(visit().syscall("listen", SYS_listen,
                                 {FileMaker::number(spare), static_cast<std::uint64_t>(socket.backlog)}));
    }
    return {};
  }

  // A name that the task's own closed socket has left behind is moved aside; somebody else's is not touched.
  Result<void> clear_path(const std::string& path) {
    if (!path.starts_with('/')) {
      return fail(ErrorKind::refused,
                  fmt::format("the unix socket '{}' was closed since, and its address is a relative path", path));
    }
    const std::string seen = fmt::format("/proc/{}/root{}", visit().task().pid().value, path);
    const auto there = RELIVE_TRY(put_text(path));
    struct stat status{};
    if (::lstat(seen.c_str(), &status) == 0) {
      if (!S_ISSOCK(status.st_mode) || somebody_listens(seen)) {
        return fail(ErrorKind::refused, fmt::format("the address {} of a socket that was closed since is taken", path));
      }
      const std::string aside_path = fmt::format("{}.relive-{}", path, visit().task().pid().value);
      const auto aside = RELIVE_TRY(put_text(aside_path));
      RELIVE_TRY(visit().record_undo("rename back " + path, SYS_rename, {aside.value, there.value}));
      RELIVE_TRY(visit().syscall("rename " + path, SYS_rename, {there.value, aside.value}));
      workshop_.cleanup.syscall("unlink " + aside_path, SYS_unlink, {aside.value}, Program::OnError::go_on);
    } else if (errno != ENOENT) {
      return fail_errno("lstat", path);
    }
    return visit().record_undo("unlink " + path, SYS_unlink, {there.value});
  }
  Result<model::TaskAddress> put_text(const std::string& text) {
    return visit().arena().put(std::as_bytes(std::span(text.c_str(), text.size() + 1)));
  }
  static bool somebody_listens(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) return true;  // cannot be told: leave it alone
    std::memcpy(address.sun_path, path.data(), path.size());
    const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
           errno != ECONNREFUSED;
  }

  Result<void> send_from(RemoteFd sender, const std::vector<std::byte>& bytes) {
    if (bytes.empty()) return {};
    const auto there = RELIVE_TRY(visit().arena().put(bytes));
    const auto sent = RELIVE_TRY(
        visit().syscall("send unread bytes", SYS_sendto,
                        {FileMaker::number(sender), there.value, bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0}));
    if (static_cast<std::size_t>(sent) == bytes.size()) return {};
    return fail(ErrorKind::refused, "the unread bytes of a socket pair do not fit into a new one");
  }
  static Result<void> shut_down(int ours, int how) {
    if (how == 0) return {};
    if (::shutdown(ours, how - 1) != 0)
      return fail_errno("shutdown", "a new socket pair");  // SHUT_RD + 1 == RCV_SHUTDOWN ...
    return {};
  }

  Workshop& workshop_;
  const model::DescriptorTable& wanted_;
  const model::DescriptorTable& living_;
  FileMaker maker_;
};

}  // namespace

Result<void> prepare_descriptors(Workshop& workshop, const diff::DescriptorPlan& plan,
                                 const model::DescriptorTable& wanted, const model::DescriptorTable& living) {
  return with_context(Executor(workshop, wanted, living).prepare(plan), "preparing the descriptor table");
}

std::vector<RemoteFd> numbers_of(const model::DescriptorTable& table) {
  std::vector<RemoteFd> numbers;
  numbers.reserve(table.descriptors.size());
  for (const model::Descriptor& descriptor : table.descriptors) numbers.push_back(descriptor.fd);
  return numbers;
}

}  // namespace relive::apply
