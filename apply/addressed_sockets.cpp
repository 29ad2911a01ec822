#include "apply/addressed_sockets.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "apply/socket_options.h"
#include "apply/sockets.h"
#include "base/fault.h"
#include "capture/sock_diag.h"
#include "capture/sockets.h"
#include "diff/addressed_sockets.h"
#include "model/endpoint.h"

namespace relive::apply {

using model::DescriptorTable;
using model::Endpoint;
using model::RemoteFd;
using model::Socket;
using model::SocketState;
using parasite::Program;

namespace {

const Socket& socket_of(const DescriptorTable& table, std::size_t file) {
  return std::get<Socket>(table.open_files.at(file).object);
}

bool stands_at(int ours, const Socket& socket) {
  const auto peer = capture::peer_address(ours);
  const bool untold = socket.protocol == IPPROTO_ICMP || socket.protocol == IPPROTO_ICMPV6;  // a peer without a port
  return capture::own_address(ours) == socket.local && (untold || peer == socket.peer);
}

// What brings a socket from one address and peer to another. Connecting to nobody (AF_UNSPEC, connect(2)) gives up an
// address that connecting has given; one that bind(2) has given stays, and is not given twice (EINVAL).
struct Step {
  long call;
  std::vector<std::byte> address;
};
std::vector<Step> way_to(const Socket& to, const Socket& from) {
  std::vector<Step> steps;
  if (to.local != from.local || to.peer.empty()) {
    steps.push_back({SYS_connect, std::vector<std::byte>(sizeof(sockaddr), std::byte{0})});
    if (to.family != AF_NETLINK) steps.push_back({SYS_bind, to.local});  // it would leave groups there
  }
  if (!to.peer.empty()) steps.push_back({SYS_connect, to.peer});
  return steps;
}

// A sender that is bound to all addresses says from which one of them it sends (IP_PKTINFO, ip(7); IPV6_PKTINFO,
// ipv6(7)).
std::vector<std::byte> source_control(const Socket& sender, const Endpoint& from) {
  const auto home = model::endpoint_of(sender.local);
  if (!home || !home->is_any()) return {};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(in6_pktinfo))> room{};
  auto* const header = reinterpret_cast<cmsghdr*>(room.data());
  if (sender.family == AF_INET) {
    in_pktinfo info{};
    std::memcpy(&info.ipi_spec_dst, from.address.data() + 12, sizeof info.ipi_spec_dst);
    header->cmsg_level = IPPROTO_IP;
    header->cmsg_type = IP_PKTINFO;
    header->cmsg_len = CMSG_LEN(sizeof info);
    std::memcpy(CMSG_DATA(header), &info, sizeof info);
  } else {
    in6_pktinfo info{};
    std::memcpy(&info.ipi6_addr, from.address.data(), sizeof info.ipi6_addr);
    info.ipi6_ifindex = from.scope;
    header->cmsg_level = IPPROTO_IPV6;
    header->cmsg_type = IPV6_PKTINFO;
    header->cmsg_len = CMSG_LEN(sizeof info);
    std::memcpy(CMSG_DATA(header), &info, sizeof info);
  }
  return {room.begin(), room.begin() + static_cast<std::ptrdiff_t>(CMSG_ALIGN(header->cmsg_len))};
}

// The msghdr(3type) of one datagram, in the arena.
Result<model::TaskAddress> put_datagram(FileMaker& maker, const Socket& receiver, const Socket& sender,
                                        const model::Message& message) {
  parasite::Arena& arena = maker.visit().arena();
  const Endpoint from = model::endpoint_of(message.from).value_or(Endpoint{});
  const auto to = model::address_for(sender.family, diff::destination(receiver, from));
  const auto control = source_control(sender, from);
  const auto there = [](model::TaskAddress address) { return reinterpret_cast<void*>(address.value); };
  const iovec piece{.iov_base = there(RELIVE_TRY(arena.put(message.bytes))), .iov_len = message.bytes.size()};
  msghdr header{};
  header.msg_name = there(RELIVE_TRY(arena.put(to)));
  header.msg_namelen = static_cast<socklen_t>(to.size());
  header.msg_iov = static_cast<iovec*>(there(RELIVE_TRY(arena.put_value(piece))));
  header.msg_iovlen = 1;
  if (!control.empty()) header.msg_control = there(RELIVE_TRY(arena.put(control)));
  header.msg_controllen = control.size();
  return arena.put_value(header);
}

// With SO_REUSEADDR or SO_REUSEPORT there may be others at its port, to whom the kernel might deliver.
Result<void> refuse_company(const Socket& socket, std::uint64_t inode) {
  const auto on = [&](int name) {
    return std::ranges::any_of(socket.options, [&](const model::SocketOption& option) {
      return option.level == SOL_SOCKET && option.name == name && option.value != std::vector<std::byte>(sizeof(int));
    });
  };
  if (!on(SO_REUSEADDR) && !on(SO_REUSEPORT)) return {};
  const auto all = RELIVE_TRY(capture::datagram_sockets());
  const auto others = std::ranges::count_if(all, [&](const capture::DatagramSocket& other) {
    return other.protocol == socket.protocol && other.port == model::port_of(socket.local) && other.inode != inode;
  });
  if (others == 0 && !all.empty()) return {};
  return fail(ErrorKind::refused, fmt::format("unread datagrams are to be sent again to {}, where other sockets might "
                                              "get them (SO_REUSEADDR, SO_REUSEPORT)",
                                              model::address_text(socket.local)));
}

// May this task send from this address? Asked of a socket that is bound to it, in the task.
Result<void> check_source(FileMaker& maker, const Socket& sender, const model::Message& message) {
  const auto home = model::endpoint_of(sender.local);
  if (!home || !home->is_any()) return {};
  Endpoint from = model::endpoint_of(message.from).value_or(Endpoint{});
  from.port = 0;
  const auto address = model::address_for(sender.family, from);
  const auto there = RELIVE_TRY(maker.visit().arena().put(address));
  const std::size_t helper = maker.helper();
  RELIVE_TRY(maker.make_one(helper, "socket", SYS_socket,
                            {static_cast<std::uint64_t>(sender.family), SOCK_DGRAM | SOCK_CLOEXEC, 0}));
  Program program;
  program.syscall("bind", SYS_bind, {FileMaker::number(maker.spare(helper)), there.value, address.size()},
                  Program::OnError::go_on);
  RELIVE_TRY(maker.visit().run(program));
  if (program.result(0) >= 0) return {};
  return fail(ErrorKind::refused, fmt::format("an unread datagram came from {}, which is no address of this machine "
                                              "any more",
                                              model::address_text(message.from)));
}

}  // namespace

Result<void> settle_addressed(int ours, const Socket& socket) {
  if (socket.state != SocketState::fresh && ::bind(ours, reinterpret_cast<const sockaddr*>(socket.local.data()),
                                                   static_cast<socklen_t>(socket.local.size())) != 0) {
    const int error = errno;
    const std::string address = model::address_text(socket.local);
    if (error != EADDRINUSE && error != EADDRNOTAVAIL && error != ENODEV) return fail_errno("bind", address, error);
    return fail(ErrorKind::refused, fmt::format("the address {} of a socket that was closed since is {}", address,
                                                error == EADDRINUSE ? "taken by another socket" : "no longer there"));
  }
  for (const model::Membership& membership : socket.memberships)
    for (const model::SocketOption& option : diff::joining(membership)) RELIVE_TRY(set_option(ours, option));
  return {};
}

Result<void> carry_out(FileMaker& maker, const DescriptorTable& wanted, const DescriptorTable& living,
                       const diff::MoveSocket& op) {
  RELIVE_TRY(fault_point("move a socket"));
  parasite::Visit& visit = maker.visit();
  const Socket& socket = socket_of(wanted, op.file);
  const Socket& now = socket_of(living, op.living);
  const auto fd = FileMaker::number(op.from);
  const std::vector<Step> back = way_to(now, socket);
  for (auto step = back.rbegin(); step != back.rend(); ++step) {
    const auto there = RELIVE_TRY(visit.arena().put(step->address));
    RELIVE_TRY(visit.record_undo("move a socket back", step->call, {fd, there.value, step->address.size()}));
  }
  Program program;
  for (const Step& step : way_to(socket, now)) {
    const auto there = RELIVE_TRY(visit.arena().put(step.address));
    program.syscall(step.call == SYS_bind ? "bind" : "connect", step.call, {fd, there.value, step.address.size()},
                    Program::OnError::go_on);
  }
  RELIVE_TRY(visit.run(program));
  const UniqueFd ours = RELIVE_TRY(visit.task().borrow(op.from));
  if (stands_at(ours.get(), socket)) return {};
  return fail(ErrorKind::refused, fmt::format("the {} was bound or connected elsewhere since, and does not come back",
                                              model::words(socket).phrase));
}

Result<void> fill_addressed(FileMaker& maker, const DescriptorTable& wanted, const diff::FillSocket& op) {
  const Socket& socket = socket_of(wanted, op.file);
  struct stat status{};
  const UniqueFd ours = RELIVE_TRY(maker.borrow(op.file));
  if (::fstat(ours.get(), &status) != 0) return fail_errno("fstat", "socket");
  RELIVE_TRY(refuse_company(socket, status.st_ino));
  for (std::size_t at = 0; at < socket.unread.size(); ++at) {
    const std::size_t sender = op.senders.at(at).value();
    const RemoteFd from = op.numbers.at(at) ? *op.numbers.at(at) : maker.spare(sender);
    const auto header = RELIVE_TRY(put_datagram(maker, socket, socket_of(wanted, sender), socket.unread[at]));
    RELIVE_TRY(maker.visit().syscall("send an unread datagram again", SYS_sendmsg,
                                     {FileMaker::number(from), header.value, MSG_DONTWAIT | MSG_NOSIGNAL}));
  }
  // An empty one is looked at once only (capture/sockets.h): the next capture is to see it.
  if (std::ranges::any_of(socket.unread, [](const model::Message& message) { return message.bytes.empty(); }))
    return {};
  if (RELIVE_TRY(capture::peek_messages(ours.get(), socket.family, socket.type, {}, capture::disregard)) ==
      socket.unread)
    return {};
  return fail(ErrorKind::refused, fmt::format("the unread datagrams of {} were sent again and have not arrived",
                                              model::address_text(socket.local)));
}

Result<void> refill_addressed(FileMaker& maker, const DescriptorTable& wanted, const DescriptorTable& living,
                              const diff::RefillSocket& op) {
  const Socket& socket = socket_of(wanted, op.file);
  RELIVE_TRY(fault_point("refill a socket"));
  RELIVE_TRY(refuse_company(socket, socket_of(living, op.living.value()).inode));
  for (std::size_t at = 0; at < socket.unread.size(); ++at) {
    const std::size_t sender = op.senders.at(at).value();
    RELIVE_TRY(check_source(maker, socket_of(wanted, sender), socket.unread[at]));
    const auto header = RELIVE_TRY(put_datagram(maker, socket, socket_of(wanted, sender), socket.unread[at]));
    // A datagram may be lost (a firewall, memory): no reason to stop the task.
    maker.workshop().commit.syscall(
        "send an unread datagram again", SYS_sendmsg,
        {FileMaker::number(number_then(maker, wanted, sender)), header.value, MSG_DONTWAIT | MSG_NOSIGNAL},
        Program::OnError::go_on);
  }
  return {};
}

}  // namespace relive::apply
