#include "apply/sockets.h"

#include <fcntl.h>
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
#include "apply/unix_names.h"
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

std::optional<std::size_t> file_with_inode(const DescriptorTable& table, std::uint64_t inode) {
  for (std::size_t index = 0; inode != 0 && index < table.open_files.size(); ++index) {
    const auto* const socket = std::get_if<Socket>(&table.open_files[index].object);
    if (socket != nullptr && socket->inode == inode) return index;
  }
  return std::nullopt;
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

// Sends one message in the task: to `address`, or to whom the sender is connected.
Result<void> send_now(FileMaker& maker, RemoteFd sender, const std::vector<std::byte>& bytes,
                      const std::vector<std::byte>& address = {}, const std::optional<NamePlace>& place = {}) {
  const auto there = RELIVE_TRY(maker.visit().arena().put(bytes));
  const auto to = RELIVE_TRY(maker.visit().arena().put(address));
  Program program;
  go_there(program, place);
  const std::size_t call =
      program.syscall("send unread bytes", SYS_sendto,
                      {FileMaker::number(sender), there.value, bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
                       address.empty() ? 0 : to.value, address.size()},
                      Program::OnError::go_on);
  come_back(program, place);
  RELIVE_TRY(maker.visit().run(program));
  const std::int64_t sent = program.result(call);
  if (sent < 0 && sent != -EAGAIN) return fail_errno("sendto", "unread messages", static_cast<int>(-sent));
  if (sent == static_cast<std::int64_t>(bytes.size())) return {};
  return fail(ErrorKind::refused, "the unread messages of a socket do not fit into a new one");
}
Result<void> send_from(FileMaker& maker, RemoteFd sender, const std::vector<model::Message>& messages) {
  for (const model::Message& message : messages) RELIVE_TRY(send_now(maker, sender, message.bytes));
  return {};
}

// connect(2) in the task: 0 or -errno.
Result<std::int64_t> connect_in_task(FileMaker& maker, RemoteFd spare, const std::vector<std::byte>& address,
                                     const std::optional<NamePlace>& place) {
  const auto there = RELIVE_TRY(maker.visit().arena().put(address));
  Program program;
  go_there(program, place);
  const std::size_t call = program.syscall(
      "connect", SYS_connect, {FileMaker::number(spare), there.value, address.size()}, Program::OnError::go_on);
  come_back(program, place);
  RELIVE_TRY(maker.visit().run(program));
  return program.result(call);
}

// A datagram socket of the task without a name, connected to `socket` by its name; `inode` is whom that must lead to.
Result<RemoteFd> make_sender(FileMaker& maker, const Socket& socket, const std::optional<NamePlace>& place,
                             std::uint64_t inode) {
  const std::size_t helper = maker.helper();
  RELIVE_TRY(maker.make_one(helper, "socket to send from", SYS_socket,
                            {static_cast<std::uint64_t>(socket.family), SOCK_DGRAM | SOCK_CLOEXEC,
                             static_cast<std::uint64_t>(socket.protocol)}));
  const std::int64_t connected = RELIVE_TRY(connect_in_task(maker, maker.spare(helper), socket.local, place));
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

std::optional<std::int64_t> position_of(const model::OpenFile& file) {
  if (const auto* const regular = std::get_if<model::RegularFile>(&file.object)) return regular->position;
  if (const auto* const device = std::get_if<model::DeviceFile>(&file.object)) return device->position;
  return std::nullopt;
}

// The numbers that files have when everything is in place. One that is in flight only comes from the holds, and is what
// it was: somebody may have received it since.
Result<std::vector<RemoteFd>> numbers_in_flight(FileMaker& maker, const DescriptorTable& wanted,
                                                const std::vector<std::size_t>& files) {
  std::vector<RemoteFd> numbers;
  for (const std::size_t index : files) {
    if (const RemoteFd number = number_then(maker, wanted, index); number.value >= 0) {
      numbers.push_back(number);
      continue;
    }
    const model::OpenFile& file = wanted.open_files.at(index);
    const auto held = maker.workshop().files.open_files.find(index);
    if (held == maker.workshop().files.open_files.end())
      return fail(ErrorKind::refused, fmt::format("{}, which an unread message carried, is not held", describe(file)));
    if (!maker.has_spare(index)) {
      RELIVE_TRY(maker.give(index, held->second.get()));
      if ((file.status_flags & O_PATH) == 0) {
        maker.set_flags(maker.spare(index), file.status_flags);
        if (const auto position = position_of(file))
          maker.commit("position of a file in flight", SYS_lseek,
                       {FileMaker::number(maker.spare(index)), static_cast<std::uint64_t>(*position), SEEK_SET});
      }
    }
    numbers.push_back(maker.spare(index));
  }
  return numbers;
}

// A msghdr in the arena.
Result<model::TaskAddress> put_message(FileMaker& maker, const std::vector<std::byte>& bytes,
                                       const std::vector<std::byte>& address, const std::vector<RemoteFd>& files) {
  parasite::Arena& arena = maker.visit().arena();
  const auto pointer = [](model::TaskAddress there) { return reinterpret_cast<void*>(there.value); };
  const iovec piece{.iov_base = pointer(RELIVE_TRY(arena.put(bytes))), .iov_len = bytes.size()};
  msghdr header{};
  header.msg_iov = reinterpret_cast<iovec*>(RELIVE_TRY(arena.put_value(piece)).value);
  header.msg_iovlen = 1;
  if (!address.empty()) {
    header.msg_name = pointer(RELIVE_TRY(arena.put(address)));
    header.msg_namelen = static_cast<socklen_t>(address.size());
  }
  if (!files.empty()) {
    const std::size_t size = files.size() * sizeof(int);
    const cmsghdr head{.cmsg_len = CMSG_LEN(size), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    std::vector<std::byte> control(CMSG_SPACE(size));
    std::memcpy(control.data(), &head, sizeof head);
    for (std::size_t at = 0; at < files.size(); ++at)
      std::memcpy(control.data() + CMSG_LEN(at * sizeof(int)), &files[at].value, sizeof(int));
    header.msg_control = pointer(RELIVE_TRY(arena.put(control)));
    header.msg_controllen = control.size();
  }
  return arena.put_value(header);
}

Result<void> set_no_delay(FileMaker& maker, RemoteFd fd, int value) {
  const auto at = RELIVE_TRY(maker.visit().arena().put_value(value));
  maker.commit(fmt::format("setsockopt {} TCP_NODELAY {}", fd.value, value), SYS_setsockopt,
               {FileMaker::number(fd), IPPROTO_TCP, TCP_NODELAY, at.value, sizeof value});
  return {};
}

// Our duplicate of a file that is there, while the numbers are the living table's: by its number in the table at hand,
// or by the spare number that this has been given.
Result<UniqueFd> borrow_living(FileMaker& maker, const DescriptorTable& living, std::size_t living_file,
                               std::size_t file) {
  const auto found = std::ranges::find_if(living.descriptors, [&](const model::Descriptor& descriptor) {
    return descriptor.open_file == living_file && descriptor.fd.table == maker.table();
  });
  if (found != living.descriptors.end()) return maker.visit().task().borrow(found->fd);
  if (maker.has_spare(file)) return maker.borrow(file);
  return fail(ErrorKind::system,
              fmt::format("{} has no number where it is refilled", model::describe(living.open_files.at(living_file))));
}

Result<std::size_t> buffer_of(int socket, int option) {
  int size = 0;
  socklen_t length = sizeof size;
  if (::getsockopt(socket, SOL_SOCKET, option, &size, &length) != 0)
    return fail_errno("getsockopt", "the size of a buffer");
  return static_cast<std::size_t>(size);
}

// Will an empty connection take so much at one go? A receiver opens its window to half of its buffer at least; of a
// sender's buffer half is what the bytes are wrapped in, and half of that is spared.
Result<void> check_room(FileMaker& maker, const DescriptorTable& wanted, const DescriptorTable& living,
                        const diff::RefillSocket& op) {
  const Socket& reader = socket_of(living, op.living.value());
  const auto writer = file_with_inode(living, reader.peer_inode);
  const std::size_t bytes = model::bytes_of(socket_of(wanted, op.file).unread).size();
  if (writer) {
    const UniqueFd ours = RELIVE_TRY(borrow_living(maker, living, *op.living, op.file));
    const UniqueFd theirs = RELIVE_TRY(borrow_living(maker, living, *writer, op.senders.at(0).value()));
    if (bytes <= RELIVE_TRY(buffer_of(ours.get(), SO_RCVBUF)) / 2 &&
        bytes <= RELIVE_TRY(buffer_of(theirs.get(), SO_SNDBUF)) / 4)
      return {};
  }
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

RemoteFd number_then(const FileMaker& maker, const DescriptorTable& wanted, std::size_t file) {
  const auto found = std::ranges::find_if(wanted.descriptors, [&](const model::Descriptor& descriptor) {
    return descriptor.open_file == file && descriptor.fd.table == maker.table();
  });
  if (found != wanted.descriptors.end()) return found->fd;
  return maker.has_spare(file) ? maker.spare(file) : RemoteFd{-1};
}

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
  return socket.family == AF_UNIX ? bind_unix(maker, maker.spare(op.file), socket, op.file)
                                  : bind_tcp(ours.get(), socket);
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
  if (one.type == SOCK_DGRAM && is_named(one)) RELIVE_TRY(bind_unix(maker, first, one, op.first));
  if (other.type == SOCK_DGRAM && is_named(other)) RELIVE_TRY(bind_unix(maker, second, other, op.second));
  if (!model::carries_files(one)) RELIVE_TRY(send_from(maker, second, one.unread));
  if (!model::carries_files(other)) RELIVE_TRY(send_from(maker, first, other.unread));
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
  if (socket.type == SOCK_DGRAM && is_named(socket)) RELIVE_TRY(bind_unix(maker, kept, socket, op.file));
  RELIVE_TRY(send_from(maker, peer, socket.unread));
  if (socket.reset) RELIVE_TRY(send_now(maker, kept, {std::byte{0}}));  // closed without being read: ECONNRESET
  RELIVE_TRY(maker.close(peer));
  return shut_down(ours.get(), socket.type == SOCK_DGRAM ? socket.shutdown : SHUT_RDWR + 1);
}

Result<void> carry_out(FileMaker& maker, const DescriptorTable& wanted, const diff::ConnectSocket& op) {
  RELIVE_TRY(fault_point("connect a socket"));
  const Socket& socket = socket_of(wanted, op.file);
  const auto peer = file_with_inode(wanted, socket.peer_inode);
  const auto place = peer ? RELIVE_TRY(place_of_name(maker, socket_of(wanted, *peer), *peer)) : std::nullopt;
  const std::int64_t answer = RELIVE_TRY(connect_in_task(maker, maker.spare(op.file), socket.peer, place));
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
  const auto place = RELIVE_TRY(place_of_name(maker, socket, op.file));
  std::optional<RemoteFd> nobody;
  for (std::size_t at = 0; at < socket.unread.size(); ++at) {
    const auto& bytes = socket.unread[at].bytes;
    if (const auto sender = op.senders.at(at)) {
      const RemoteFd from = op.numbers.at(at) ? *op.numbers.at(at) : maker.spare(*sender);
      RELIVE_TRY(send_now(maker, from, bytes, socket.local, place));
    } else {
      if (!nobody) nobody = RELIVE_TRY(make_sender(maker, socket, place, status.st_ino));
      RELIVE_TRY(send_now(maker, *nobody, bytes));
    }
  }
  return {};
}

Result<void> carry_out(FileMaker& maker, const DescriptorTable& wanted, const DescriptorTable& living,
                       const diff::RefillSocket& op) {
  const Socket& socket = socket_of(wanted, op.file);
  if (model::is_addressed(socket)) return refill_addressed(maker, wanted, living, op);
  const bool tcp = socket.family != AF_UNIX;
  if (tcp) RELIVE_TRY(check_room(maker, wanted, living, op));
  const auto to_peer = [&](const std::optional<std::size_t>& sender) {
    return sender && socket_of(wanted, *sender).peer_inode == socket.inode;
  };
  // Where one is sent by name: that this leads to the socket is found out by making a nameless sender.
  const bool all_to_peer = std::ranges::all_of(op.senders, to_peer);
  const auto place = all_to_peer ? std::nullopt : RELIVE_TRY(place_of_name(maker, socket, op.file));
  std::optional<RemoteFd> nobody;
  if (!all_to_peer)
    nobody = RELIVE_TRY(
        make_sender(maker, socket, place, std::get<Socket>(living.open_files.at(op.living.value()).object).inode));
  go_there(maker.workshop().commit, place);
  for (std::size_t at = 0; at < socket.unread.size(); ++at) {
    const auto& bytes = socket.unread[at].bytes;
    const auto sender = op.senders.at(at);
    const bool by_name = sender && !to_peer(sender);
    const RemoteFd from = sender ? number_then(maker, wanted, *sender) : *nobody;
    const std::vector<RemoteFd> files = RELIVE_TRY(numbers_in_flight(maker, wanted, socket.unread[at].files));
    const auto header = RELIVE_TRY(put_message(maker, bytes, by_name ? socket.local : std::vector<std::byte>{}, files));
    // Without Nagle's delay, whatever is not acknowledged yet: it is to be there when the program looks.
    const bool hurry = tcp && !diff::is_set(socket_of(wanted, sender.value()), IPPROTO_TCP, TCP_NODELAY);
    if (hurry) RELIVE_TRY(set_no_delay(maker, from, 1));
    // Never blocks: the socket is empty by now (EmptySocket), and this fits (diff/sockets.cpp).
    maker.commit("send an unread message again", SYS_sendmsg,
                 {FileMaker::number(from), header.value, MSG_DONTWAIT | MSG_NOSIGNAL});
    if (hurry) RELIVE_TRY(set_no_delay(maker, from, 0));
  }
  come_back(maker.workshop().commit, place);
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
