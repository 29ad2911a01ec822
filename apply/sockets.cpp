#include "apply/sockets.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "apply/addressed_sockets.h"
#include "apply/hung_up.h"
#include "apply/repaired_pair.h"
#include "apply/socket_options.h"
#include "base/fault.h"
#include "capture/descriptors.h"
#include "capture/sockets.h"
#include "diff/socket_options.h"

namespace relive::apply {

using model::DescriptorTable;
using model::RemoteFd;
using model::Socket;
using model::SocketState;
using parasite::Program;

namespace {

const Socket& socket_of(const DescriptorTable& wanted, std::size_t file) {
  return std::get<Socket>(wanted.open_files.at(file).object);
}

// The path of a unix address in the file system; empty for an abstract address or none.
std::string path_of(const Socket& socket) {
  constexpr std::size_t kPath = offsetof(sockaddr_un, sun_path);
  if (socket.family != AF_UNIX || socket.local.size() <= kPath || socket.local[kPath] == std::byte{0}) return {};
  return model::address_text(socket.local);
}

// Has it an address of its own that was not given by connecting?
bool is_named(const Socket& socket) {
  if (socket.family == AF_UNIX) return socket.local.size() > offsetof(sockaddr_un, sun_path);
  return socket.state != SocketState::fresh;
}

Result<std::pair<RemoteFd, RemoteFd>> make_pair(FileMaker& maker, int type) {
  return maker.make_two("socket pair", SYS_socketpair, [type](std::uint64_t there) {
    return std::array<std::uint64_t, 4>{AF_UNIX, static_cast<std::uint64_t>(type) | SOCK_CLOEXEC, 0, there};
  });
}

Result<void> address_error(const Socket& socket, std::string_view call, int error) {
  const std::string address = model::address_text(socket.local);
  if (error == EADDRINUSE || error == EADDRNOTAVAIL) {
    return fail(ErrorKind::refused, fmt::format("the address {} of a socket that was closed since is {}", address,
                                                error == EADDRINUSE ? "taken by another socket" : "no longer there"));
  }
  return fail_errno(call, address, error);
}

// On our duplicate: the port may be one that the task itself may no longer bind.
Result<void> bind_tcp(int ours, const Socket& socket) {
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

Result<model::TaskAddress> put_text(FileMaker& maker, const std::string& text) {
  return maker.visit().arena().put(std::as_bytes(std::span(text.c_str(), text.size() + 1)));
}

bool somebody_listens(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return true;  // cannot be told: leave it alone
  std::memcpy(address.sun_path, path.data(), path.size());
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
         errno != ECONNREFUSED;
}

// A name that the task's own closed socket has left behind is moved aside; somebody else's is not touched.
Result<void> clear_path(FileMaker& maker, const std::string& path) {
  parasite::Visit& visit = maker.visit();
  if (!path.starts_with('/')) {
    return fail(ErrorKind::refused,
                fmt::format("the unix socket '{}' was closed since, and its address is a relative path", path));
  }
  const std::string seen = fmt::format("/proc/{}/root{}", visit.task().pid().value, path);
  const auto there = RELIVE_TRY(put_text(maker, path));
  struct stat status{};
  if (::lstat(seen.c_str(), &status) == 0) {
    if (!S_ISSOCK(status.st_mode) || somebody_listens(seen)) {
      return fail(ErrorKind::refused, fmt::format("the address {} of a socket that was closed since is taken", path));
    }
    const std::string aside_path = fmt::format("{}.relive-{}", path, visit.task().pid().value);
    const auto aside = RELIVE_TRY(put_text(maker, aside_path));
    RELIVE_TRY(visit.record_undo("rename back " + path, SYS_rename, {aside.value, there.value}));
    RELIVE_TRY(visit.syscall("rename " + path, SYS_rename, {there.value, aside.value}));
    maker.workshop().cleanup.syscall("unlink " + aside_path, SYS_unlink, {aside.value}, Program::OnError::go_on);
  } else if (errno != ENOENT) {
    return fail_errno("lstat", path);
  }
  return visit.record_undo("unlink " + path, SYS_unlink, {there.value});
}

// In the task: the peers of a unix socket see who listened, and the name is made with the task's rights.
Result<void> bind_unix(FileMaker& maker, RemoteFd spare, const Socket& socket) {
  parasite::Visit& visit = maker.visit();
  if (const std::string path = path_of(socket); !path.empty()) RELIVE_TRY(clear_path(maker, path));
  const auto address = RELIVE_TRY(visit.arena().put(socket.local));
  Program program;
  program.syscall("bind", SYS_bind, {FileMaker::number(spare), address.value, socket.local.size()},
                  Program::OnError::go_on);
  RELIVE_TRY(visit.run(program));
  if (program.result(0) < 0) return address_error(socket, "bind", static_cast<int>(-program.result(0)));
  if (socket.state == SocketState::listening) {
    RELIVE_TRY(
        visit.syscall("listen", SYS_listen, {FileMaker::number(spare), static_cast<std::uint64_t>(socket.backlog)}));
  }
  return {};
}

// Sends one message in the task: to `address`, or to whom the sender is connected.
Result<void> send_now(FileMaker& maker, RemoteFd sender, const std::vector<std::byte>& bytes,
                      const std::vector<std::byte>& address = {}) {
  const auto there = RELIVE_TRY(maker.visit().arena().put(bytes));
  const auto to = RELIVE_TRY(maker.visit().arena().put(address));
  Program program;
  program.syscall("send unread bytes", SYS_sendto,
                  {FileMaker::number(sender), there.value, bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
                   address.empty() ? 0 : to.value, address.size()},
                  Program::OnError::go_on);
  RELIVE_TRY(maker.visit().run(program));
  const std::int64_t sent = program.result(0);
  if (sent < 0 && sent != -EAGAIN) return fail_errno("sendto", "unread messages", static_cast<int>(-sent));
  if (sent == static_cast<std::int64_t>(bytes.size())) return {};
  return fail(ErrorKind::refused, "the unread messages of a socket do not fit into a new one");
}
Result<void> send_from(FileMaker& maker, RemoteFd sender, const std::vector<model::Message>& messages) {
  for (const model::Message& message : messages) RELIVE_TRY(send_now(maker, sender, message.bytes));
  return {};
}

// connect(2) in the task: 0 or -errno.
Result<std::int64_t> connect_in_task(FileMaker& maker, RemoteFd spare, const std::vector<std::byte>& address) {
  const auto there = RELIVE_TRY(maker.visit().arena().put(address));
  Program program;
  program.syscall("connect", SYS_connect, {FileMaker::number(spare), there.value, address.size()},
                  Program::OnError::go_on);
  RELIVE_TRY(maker.visit().run(program));
  return program.result(0);
}

// A datagram socket of the task without a name, connected to `socket` by its name; `inode` is whom that must lead to.
Result<RemoteFd> make_sender(FileMaker& maker, const Socket& socket, std::uint64_t inode) {
  const std::size_t helper = maker.helper();
  RELIVE_TRY(maker.make_one(helper, "socket to send from", SYS_socket,
                            {static_cast<std::uint64_t>(socket.family), SOCK_DGRAM | SOCK_CLOEXEC,
                             static_cast<std::uint64_t>(socket.protocol)}));
  const std::int64_t connected = RELIVE_TRY(connect_in_task(maker, maker.spare(helper), socket.local));
  struct stat status{};
  const UniqueFd ours = RELIVE_TRY(maker.borrow(helper));
  if (::fstat(ours.get(), &status) != 0) return fail_errno("fstat", "socket");
  capture::UnixDiagnoser diagnoser;
  if (connected != 0 || RELIVE_TRY(diagnoser.ask(status.st_ino)).peer_inode != inode) {
    return fail(ErrorKind::refused, fmt::format("unread datagrams are to be put back into the unix socket {}, and its "
                                                "name no longer leads to it",
                                                model::address_text(socket.local)));
  }
  return maker.spare(helper);
}

RemoteFd number_then(const DescriptorTable& wanted, std::size_t file) {
  const auto found = std::ranges::find(wanted.descriptors, file, &model::Descriptor::open_file);
  return found == wanted.descriptors.end() ? RemoteFd{-1} : found->fd;
}

Result<void> set_no_delay(FileMaker& maker, RemoteFd fd, int value) {
  const auto at = RELIVE_TRY(maker.visit().arena().put_value(value));
  maker.commit(fmt::format("setsockopt {} TCP_NODELAY {}", fd.value, value), SYS_setsockopt,
               {FileMaker::number(fd), IPPROTO_TCP, TCP_NODELAY, at.value, sizeof value});
  return {};
}

// Will an empty connection take so much at one go? A receiver opens its window to half of its buffer at least; of a
// sender's buffer half is what the bytes are wrapped in, and half of that is spared.
Result<void> check_room(FileMaker& maker, const DescriptorTable& living, const Socket& reader, std::size_t bytes) {
  const auto buffer_of = [&](std::uint64_t inode, int option) -> Result<std::size_t> {
    for (const model::Descriptor& descriptor : living.descriptors) {
      const auto* const socket = std::get_if<Socket>(&living.open_files[descriptor.open_file].object);
      if (socket == nullptr || socket->inode != inode) continue;
      const UniqueFd ours = RELIVE_TRY(maker.visit().task().borrow(descriptor.fd));
      int size = 0;
      socklen_t length = sizeof size;
      if (::getsockopt(ours.get(), SOL_SOCKET, option, &size, &length) != 0)
        return fail_errno("getsockopt", "the size of a buffer");
      return static_cast<std::size_t>(size);
    }
    return std::size_t{0};
  };
  if (bytes <= RELIVE_TRY(buffer_of(reader.inode, SO_RCVBUF)) / 2 &&
      bytes <= RELIVE_TRY(buffer_of(reader.peer_inode, SO_SNDBUF)) / 4)
    return {};
  return fail(ErrorKind::refused,
              fmt::format("{} unread bytes of the connection {} -> {} inside the task cannot be sent "
                          "again at one go",
                          bytes, model::address_text(reader.peer), model::address_text(reader.local)));
}

// Our sockets belong to our network namespace.
Result<RepairedPair> repair(FileMaker& maker, const Socket& one, const Socket& other) {
  struct stat ours{};
  struct stat theirs{};
  const std::string there = fmt::format("/proc/{}/ns/net", maker.visit().task().pid().value);
  if (::stat("/proc/self/ns/net", &ours) != 0 || ::stat(there.c_str(), &theirs) != 0) return fail_errno("stat", there);
  if (ours.st_ino != theirs.st_ino || ours.st_dev != theirs.st_dev)
    return fail(ErrorKind::permission, "the task is in another network namespace");
  return make_repaired_pair(one, other, set_options);
}

Result<void> shut_down(int ours, int how) {
  if (how == 0) return {};
  if (::shutdown(ours, how - 1) != 0) return fail_errno("shutdown", "a new socket");  // SHUT_RD + 1 == RCV_SHUTDOWN ...
  return {};
}

}  // namespace

Result<void> carry_out(FileMaker& maker, const DescriptorTable& wanted, const diff::MakeSocket& op) {
  const Socket& socket = socket_of(wanted, op.file);
  RELIVE_TRY(
      maker.make_one(op.file, "socket", SYS_socket,
                     {static_cast<std::uint64_t>(socket.family), static_cast<std::uint64_t>(socket.type) | SOCK_CLOEXEC,
                      static_cast<std::uint64_t>(socket.protocol)}));
  const UniqueFd ours = RELIVE_TRY(maker.borrow(op.file));
  RELIVE_TRY(set_options(ours.get(), socket));
  if (model::is_addressed(socket)) return settle_addressed(ours.get(), socket);
  if (!is_named(socket)) return {};
  return socket.family == AF_UNIX ? bind_unix(maker, maker.spare(op.file), socket) : bind_tcp(ours.get(), socket);
}

Result<void> carry_out(FileMaker& maker, const DescriptorTable& wanted, const diff::MakeSocketPair& op) {
  const Socket& one = socket_of(wanted, op.first);
  const Socket& other = socket_of(wanted, op.second);
  const auto [first, second] = RELIVE_TRY(make_pair(maker, one.type));
  maker.keep(op.first, first);
  maker.keep(op.second, second);
  const UniqueFd ours = RELIVE_TRY(maker.borrow(op.first));
  const UniqueFd others = RELIVE_TRY(maker.borrow(op.second));
  RELIVE_TRY(set_options(ours.get(), one));
  RELIVE_TRY(set_options(others.get(), other));
  if (one.type == SOCK_DGRAM && is_named(one)) RELIVE_TRY(bind_unix(maker, first, one));
  if (other.type == SOCK_DGRAM && is_named(other)) RELIVE_TRY(bind_unix(maker, second, other));
  RELIVE_TRY(send_from(maker, second, one.unread));
  RELIVE_TRY(send_from(maker, first, other.unread));
  RELIVE_TRY(shut_down(ours.get(), one.shutdown));
  return shut_down(others.get(), other.shutdown);
}

Result<void> carry_out(FileMaker& maker, const DescriptorTable& wanted, const diff::MakeConnection& op) {
  const Socket& one = socket_of(wanted, op.first);
  const Socket& other = socket_of(wanted, op.second);
  auto pair = repair(maker, one, other);
  if (!pair && pair.error().kind == ErrorKind::permission) {
    maker.workshop().notes.push_back(
        fmt::format("{}: closed since the snapshot and not made again ({}); the program will see the end of the "
                    "connection",
                    model::words(one).phrase, pair.error().what));
    RELIVE_TRY(carry_out(maker, wanted, diff::MakeHungUp{op.first}));
    return carry_out(maker, wanted, diff::MakeHungUp{op.second});
  }
  if (!pair) return std::unexpected(std::move(pair).error());
  RELIVE_TRY(maker.give(op.first, pair->first.get()));
  return maker.give(op.second, pair->second.get());
}

Result<void> carry_out(FileMaker& maker, const DescriptorTable& wanted, const diff::MakeHungUp& op) {
  const Socket& socket = socket_of(wanted, op.file);
  if (socket.family != AF_UNIX || socket.state != SocketState::hung_up) {
    const UniqueFd ours = RELIVE_TRY(make_hung_up_socket(socket.family, socket.type, model::bytes_of(socket.unread)));
    return maker.give(op.file, ours.get());
  }
  // In the task: what it sends to itself carries its own credentials.
  const auto [kept, peer] = RELIVE_TRY(make_pair(maker, socket.type));
  maker.keep(op.file, kept);
  const UniqueFd ours = RELIVE_TRY(maker.borrow(op.file));
  RELIVE_TRY(set_options(ours.get(), socket));
  if (socket.type == SOCK_DGRAM && is_named(socket)) RELIVE_TRY(bind_unix(maker, kept, socket));
  RELIVE_TRY(send_from(maker, peer, socket.unread));
  if (socket.reset) RELIVE_TRY(send_now(maker, kept, {std::byte{0}}));  // closed without being read: ECONNRESET
  RELIVE_TRY(maker.close(peer));
  return shut_down(ours.get(), socket.type == SOCK_DGRAM ? socket.shutdown : SHUT_RDWR + 1);
}

Result<void> carry_out(FileMaker& maker, const DescriptorTable& wanted, const diff::ConnectSocket& op) {
  RELIVE_TRY(fault_point("connect a socket"));
  const Socket& socket = socket_of(wanted, op.file);
  const std::int64_t answer = RELIVE_TRY(connect_in_task(maker, maker.spare(op.file), socket.peer));
  if (answer == 0) return {};
  if (op.outside) {
    maker.workshop().notes.push_back(fmt::format("a socket that was closed since is connected to nobody: {}: {}",
                                                 model::address_text(socket.peer),
                                                 std::strerror(static_cast<int>(-answer))));
    return {};
  }
  return fail_errno("connect", model::address_text(socket.peer), static_cast<int>(-answer));
}

Result<void> carry_out(FileMaker& maker, const DescriptorTable& wanted, const diff::FillSocket& op) {
  RELIVE_TRY(fault_point("fill a socket"));
  const Socket& socket = socket_of(wanted, op.file);
  if (model::is_addressed(socket)) return fill_addressed(maker, wanted, op);
  struct stat status{};
  const UniqueFd ours = RELIVE_TRY(maker.borrow(op.file));
  if (::fstat(ours.get(), &status) != 0) return fail_errno("fstat", "socket");
  std::optional<RemoteFd> nobody;
  for (std::size_t at = 0; at < socket.unread.size(); ++at) {
    const auto& bytes = socket.unread[at].bytes;
    if (const auto sender = op.senders.at(at)) {
      const RemoteFd from = op.numbers.at(at) ? *op.numbers.at(at) : maker.spare(*sender);
      RELIVE_TRY(send_now(maker, from, bytes, socket.local));
    } else {
      if (!nobody) nobody = RELIVE_TRY(make_sender(maker, socket, status.st_ino));
      RELIVE_TRY(send_now(maker, *nobody, bytes));
    }
  }
  return {};
}

Result<void> carry_out(FileMaker& maker, const DescriptorTable& wanted, const DescriptorTable& living,
                       const diff::RefillSocket& op) {
  const Socket& socket = socket_of(wanted, op.file);
  if (model::is_addressed(socket)) return refill_addressed(maker, wanted, living, op);
  const auto& there = std::get<Socket>(living.open_files.at(op.living).object);
  if (socket.family != AF_UNIX) RELIVE_TRY(check_room(maker, living, there, model::bytes_of(socket.unread).size()));
  std::optional<RemoteFd> nobody;
  for (std::size_t at = 0; at < socket.unread.size(); ++at) {
    const auto& bytes = socket.unread[at].bytes;
    const auto sender = op.senders.at(at);
    const bool to_peer = sender && socket_of(wanted, *sender).peer_inode == socket.inode;
    if (!to_peer && !nobody) nobody = RELIVE_TRY(make_sender(maker, socket, there.inode));
    const auto data = RELIVE_TRY(maker.visit().arena().put(bytes));
    const auto name = RELIVE_TRY(maker.visit().arena().put(socket.local));
    const bool by_name = sender && !to_peer;
    // Without Nagle's delay, whatever is not acknowledged yet: it is to be there when the program looks.
    const bool tcp = socket.family != AF_UNIX;
    const bool hurry = tcp && !diff::is_set(socket_of(wanted, *sender), IPPROTO_TCP, TCP_NODELAY);
    if (hurry) RELIVE_TRY(set_no_delay(maker, number_then(wanted, *sender), 1));
    // Never blocks: the socket is empty by now (EmptySocket), and this fits (diff/sockets.cpp).
    maker.commit("send an unread message again", SYS_sendto,
                 {FileMaker::number(sender ? number_then(wanted, *sender) : *nobody), data.value, bytes.size(),
                  MSG_DONTWAIT | MSG_NOSIGNAL, by_name ? name.value : 0, by_name ? socket.local.size() : 0});
    if (hurry) RELIVE_TRY(set_no_delay(maker, number_then(wanted, *sender), 0));
  }
  return {};
}

Result<void> carry_out(FileMaker& maker, const diff::ShutDown& op) {
  // Of a UDP socket that is connected to nobody it says ENOTCONN, and does it (inet_shutdown(), net/ipv4/af_inet.c).
  maker.workshop().commit.syscall(fmt::format("shutdown {}", op.fd.value), SYS_shutdown,
                                  {FileMaker::number(op.fd), static_cast<std::uint64_t>(op.how - 1)},
                                  Program::OnError::go_on);
  return {};
}

Result<void> carry_out(FileMaker& maker, const diff::Listen& op) {
  maker.commit(fmt::format("listen {}", op.fd.value), SYS_listen,
               {FileMaker::number(op.fd), static_cast<std::uint64_t>(op.backlog)});
  return {};
}

}  // namespace relive::apply
