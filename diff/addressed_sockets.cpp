#include "diff/addressed_sockets.h"

#include <fmt/format.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/udp.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "diff/socket_options.h"

namespace relive::diff {

using model::Endpoint;
using model::Membership;
using model::Message;
using model::Socket;
using model::SocketOption;
using model::SocketState;

namespace {

bool is_fresh(const Socket& socket) { return socket.state == SocketState::fresh; }
bool is_connected(const Socket& socket) { return socket.state == SocketState::connected; }

// What is bound to all addresses gets one by connecting, and may lose it when it is connected to nobody again.
bool same_home(const Socket& wanted, const Socket& living) {
  if (!model::has_port(wanted)) return wanted.local == living.local && wanted.peer == living.peer;
  if (wanted.local == living.local) return true;
  const auto one = model::endpoint_of(wanted.local);
  const auto other = model::endpoint_of(living.local);
  return one && other && one->port == other->port && one->port != 0 && (one->is_any() || other->is_any()) &&
         (is_connected(wanted) || is_connected(living));
}

bool same_group(const Membership& one, const Membership& other) {
  return one.level == other.level && one.group == other.group;
}
template <class T>
std::vector<std::byte> as_bytes(const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}
group_req group_of(const Membership& membership) {
  group_req group{};
  std::memcpy(&group, membership.group.data(), std::min(sizeof group, membership.group.size()));
  return group;
}

SocketOption leaving(const Membership& membership) {
  static_assert(NETLINK_DROP_MEMBERSHIP == PACKET_DROP_MEMBERSHIP);
  const bool multicast = membership.level != SOL_NETLINK && membership.level != SOL_PACKET;
  const int name = multicast ? MCAST_LEAVE_GROUP : NETLINK_DROP_MEMBERSHIP;
  return {.level = membership.level, .name = name, .value = membership.group};
}
SocketOption filtering(const Membership& membership) {
  const group_req group = group_of(membership);
  group_filter filter{};
  filter.gf_interface = group.gr_interface;
  filter.gf_group = group.gr_group;
  filter.gf_fmode = membership.excludes ? MCAST_EXCLUDE : MCAST_INCLUDE;
  filter.gf_numsrc = static_cast<std::uint32_t>(membership.sources.size());
  std::vector<std::byte> value(GROUP_FILTER_SIZE(membership.sources.size()));
  std::memcpy(value.data(), &filter, offsetof(group_filter, gf_slist));
  for (std::size_t at = 0; at < membership.sources.size(); ++at) {
    std::memcpy(value.data() + offsetof(group_filter, gf_slist) + at * sizeof(sockaddr_storage),
                membership.sources[at].data(), sizeof(sockaddr_storage));
  }
  return {.level = membership.level, .name = MCAST_MSFILTER, .value = std::move(value)};
}

// A packet socket may have joined a group more than once.
void put_groups_right(const Socket& wanted, const Socket& living, model::RemoteFd from, SocketPart& part) {
  std::vector<const Membership*> there(wanted.memberships.size(), nullptr);
  for (const Membership& now : living.memberships) {
    std::size_t at = 0;
    while (at < there.size() && (there[at] != nullptr || !same_group(wanted.memberships[at], now))) ++at;
    if (at < there.size())
      there[at] = &now;
    else
      part.made.emplace_back(SetOption{.from = from, .option = leaving(now), .back = joining(now)});
  }
  for (std::size_t at = 0; at < there.size(); ++at) {
    const Membership& membership = wanted.memberships[at];
    if (there[at] == nullptr) {
      std::vector<SocketOption> back{leaving(membership)};
      for (SocketOption& option : joining(membership))
        part.made.emplace_back(SetOption{.from = from, .option = std::move(option), .back = std::exchange(back, {})});
    } else if (*there[at] != membership) {
      part.made.emplace_back(SetOption{.from = from, .option = filtering(membership), .back = {filtering(*there[at])}});
    }
  }
}

// Does what the task sends to it by the loopback device arrive as it did?
bool can_be_reached(const Socket& socket) {
  const auto home = model::endpoint_of(socket.local);
  return home && home->port != 0 && !home->is_multicast() && (socket.shutdown & 1) == 0 &&
         !is_set(socket, SOL_SOCKET, SO_BINDTODEVICE) && !is_set(socket, SOL_SOCKET, SO_ATTACH_FILTER) &&
         !is_set(socket, IPPROTO_UDP, UDP_GRO);
}
bool may_send_as(const Socket& socket, const Endpoint& from) {
  const auto home = model::endpoint_of(socket.local);
  return home && home->port == from.port && (home->is_any() || home->same_address(from)) &&
         (socket.shutdown & 2) == 0 && !is_set(socket, SOL_SOCKET, SO_BINDTODEVICE) &&
         !is_set(socket, IPPROTO_UDP, UDP_CORK) && !is_set(socket, IPPROTO_UDP, UDP_SEGMENT);
}

}  // namespace

std::optional<Senders> addressed_senders(const Socket& socket, const Table& table) {
  Senders senders;
  if (socket.unread.empty()) return senders;
  if (!can_be_reached(socket)) return std::nullopt;
  for (const Message& message : socket.unread) {
    const auto from = model::endpoint_of(message.from);
    if (!from || (is_connected(socket) && model::endpoint_of(socket.peer) != from)) return std::nullopt;
    std::optional<std::size_t> sender;
    for (std::size_t other = 0; !sender && other < table.files(); ++other) {
      const auto* const named = table.as<Socket>(other);
      if (named != nullptr && model::is_addressed(*named) && named->protocol == socket.protocol &&
          (named->family == AF_INET6 || from->is_ipv4()) && may_send_as(*named, *from) && !table.numbers(other).empty())
        sender = other;
    }
    if (!sender) return std::nullopt;
    senders.push_back(sender);
  }
  return senders;
}

namespace {

std::string cannot_come_again(const Socket& socket) {
  const std::string from = socket.unread.empty() ? "" : model::address_text(socket.unread.front().from);
  return fmt::format("it held unread datagrams (from {}) that this task cannot send to it again", from);
}

bool begins_with(const std::vector<Message>& all, const std::vector<Message>& begin) {
  return all.size() >= begin.size() && std::equal(begin.begin(), begin.end(), all.begin());
}

void put_datagrams_right(std::size_t wanted, const Table& wanted_table, std::size_t living_index, const Socket& living,
                         SocketPart& part) {
  const auto& socket = *wanted_table.as<Socket>(wanted);
  if (socket.unread == living.unread && !living.reset) return;
  auto senders = addressed_senders(socket, wanted_table);
  if (senders && certainly_fits(socket)) {
    part.rights.emplace_back(EmptySocket{wanted_table.at_home(wanted), wanted_table.file(wanted).status_flags});
    if (!socket.unread.empty()) part.contents.emplace_back(RefillSocket{wanted, living_index, std::move(*senders)});
  } else if (begins_with(living.unread, socket.unread)) {
    part.notes.push_back(fmt::format("{}: {} datagrams that came since the snapshot stay unread; {}",
                                     wanted_table.name(wanted), living.unread.size() - socket.unread.size(),
                                     cannot_come_again(socket)));
  } else {
    part.refusal = "read since the snapshot, and " + cannot_come_again(socket);
  }
}

}  // namespace

std::vector<SocketOption> joining(const Membership& membership) {
  std::vector<SocketOption> options;
  if (membership.level == SOL_NETLINK || membership.level == SOL_PACKET) {
    static_assert(NETLINK_ADD_MEMBERSHIP == PACKET_ADD_MEMBERSHIP);
    const int name = NETLINK_ADD_MEMBERSHIP;
    options.push_back({.level = membership.level, .name = name, .value = membership.group});
    return options;
  }
  if (membership.excludes) {
    options.push_back({.level = membership.level, .name = MCAST_JOIN_GROUP, .value = membership.group});
    if (!membership.sources.empty()) options.push_back(filtering(membership));
    return options;
  }
  const group_req group = group_of(membership);
  for (const auto& source : membership.sources) {
    group_source_req request{};
    request.gsr_interface = group.gr_interface;
    request.gsr_group = group.gr_group;
    std::memcpy(&request.gsr_source, source.data(), std::min(sizeof request.gsr_source, source.size()));
    options.push_back({.level = membership.level, .name = MCAST_JOIN_SOURCE_GROUP, .value = as_bytes(request)});
  }
  return options;
}

Endpoint destination(const Socket& receiver, const Endpoint& from) {
  Endpoint to = model::endpoint_of(receiver.local).value_or(Endpoint{});
  if (to.is_any()) {  // its sender is here, so it has that address as well
    to.address = from.address;
    to.scope = from.scope;
  }
  return to;
}

bool addressed_can_become(const Socket& wanted, const Socket& living) {
  if (wanted.shutdown != living.shutdown) return false;  // for ever
  if (is_set(living, SOL_SOCKET, SO_LOCK_FILTER) &&
      (!is_set(wanted, SOL_SOCKET, SO_LOCK_FILTER) || !same_option(wanted, living, SOL_SOCKET, SO_ATTACH_FILTER)))
    return false;
  if (is_fresh(wanted) || is_fresh(living)) return is_fresh(wanted) && is_fresh(living);
  return same_option(wanted, living, IPPROTO_IPV6, IPV6_V6ONLY) && same_home(wanted, living);
}

SocketPart make_addressed(std::size_t wanted, const Table& wanted_table, const Table& living_table,
                          const Matches& matches) {
  const auto& socket = *wanted_table.as<Socket>(wanted);
  SocketPart part;
  part.made.emplace_back(MakeSocket{wanted});
  if (socket.shutdown != 0) part.contents.emplace_back(ShutDown{wanted_table.at_home(wanted), socket.shutdown});
  if (is_connected(socket)) part.joined.emplace_back(ConnectSocket{wanted, true});
  if (socket.unread.empty()) return part;
  auto senders = addressed_senders(socket, wanted_table);
  if (!senders) {
    part.refusal = "gone since the snapshot, and " + cannot_come_again(socket);
    return part;
  }
  FillSocket fill{.file = wanted, .senders = std::move(*senders), .numbers = {}};
  const int home = wanted_table.home(wanted);
  for (const auto& sender : fill.senders) {
    const auto living = matches.living_of[*sender];
    fill.numbers.push_back(living ? living_table.number_in(*living, home).value_or(spare_number(*sender, home))
                                  : std::optional<model::RemoteFd>());
  }
  part.joined.emplace_back(std::move(fill));
  return part;
}

SocketPart put_right_addressed(std::size_t wanted, const Table& wanted_table, const Table& living_table,
                               const Matches& matches) {
  const auto& socket = *wanted_table.as<Socket>(wanted);
  const std::size_t living_index = *matches.living_of[wanted];
  const auto& living = *living_table.as<Socket>(living_index);
  const model::RemoteFd from = living_table.numbers(living_index).front();
  SocketPart part;
  put_options_right(socket, living, from, part);
  put_groups_right(socket, living, from, part);
  if (socket.local != living.local || socket.peer != living.peer)
    part.made.emplace_back(MoveSocket{.file = wanted, .living = living_index, .from = from});
  put_datagrams_right(wanted, wanted_table, living_index, living, part);
  return part;
}

std::vector<std::string> addressed_changes(const Socket& wanted, const Socket& living) {
  std::vector<std::string> out;
  const auto text = [](const std::vector<std::byte>& address) {
    return address.empty() ? std::string("nobody") : model::address_text(address);
  };
  if (wanted.local != living.local)
    out.push_back(fmt::format("address {} -> {}", text(wanted.local), text(living.local)));
  if (wanted.peer != living.peer)
    out.push_back(fmt::format("connected to {} -> {}", text(wanted.peer), text(living.peer)));
  if (wanted.memberships != living.memberships) {
    if (wanted.memberships.size() != living.memberships.size())
      out.push_back(fmt::format("groups {} -> {}", wanted.memberships.size(), living.memberships.size()));
    else
      out.emplace_back("its groups are others");
  }
  if (living.reset) out.emplace_back("an error is pending since");
  return out;
}

}  // namespace relive::diff
