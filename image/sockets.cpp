// Sockets, and the messages that wait in them.
//
// What is in a TCP connection (sequence numbers, windows) is not in the model: a connection is written as its two
// addresses and what is unread at this end, for relive itself (docs/images.md).
#include <fmt/format.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "image/files.h"

namespace relive::image::kinds {

namespace {

using model::Socket;
using model::SocketState;

// TCP_* states of the kernel; unix sockets use three of them.
constexpr std::uint32_t kEstablished = 1;
constexpr std::uint32_t kClosed = 7;
constexpr std::uint32_t kListening = 10;
constexpr std::uint32_t kUsualBuffer = 212992;  // net.core.wmem_default, where it was never set

constexpr std::size_t kNameAt = offsetof(sockaddr_un, sun_path);
constexpr std::size_t kNameLimit = sizeof(sockaddr_un::sun_path);

const model::SocketOption* find(const Socket& socket, int level, int name) {
  for (const auto& option : socket.options)
    if (option.level == level && option.name == name) return &option;
  return nullptr;
}

std::optional<int> number(const Socket& socket, int level, int name) {
  const auto* const option = find(socket, level, name);
  if (option == nullptr || option->value.size() < sizeof(int)) return std::nullopt;
  int value = 0;
  std::memcpy(&value, option->value.data(), sizeof value);
  return value;
}

timeval time_of(const Socket& socket, int name) {
  const auto* const option = find(socket, SOL_SOCKET, name);
  timeval value{};
  if (option != nullptr && option->value.size() >= sizeof value)
    std::memcpy(&value, option->value.data(), sizeof value);
  return value;
}

// Every option that the model has, whatever CRIU has a field for, is in the extra part; these are those CRIU restores.
void options_to(const Socket& socket, pb::SocketOptions& to) {
  const auto flag = [&](int name) { return number(socket, SOL_SOCKET, name).value_or(0) != 0; };
  const auto send = number(socket, SOL_SOCKET, SO_SNDBUF);
  const auto receive = number(socket, SOL_SOCKET, SO_RCVBUF);
  // The model has what setsockopt takes, which the kernel doubles; CRIU has what getsockopt says.
  to.set_send_buffer(send ? static_cast<std::uint32_t>(*send) * 2 : kUsualBuffer);
  to.set_receive_buffer(receive ? static_cast<std::uint32_t>(*receive) * 2 : kUsualBuffer);
  const timeval sending = time_of(socket, SO_SNDTIMEO);
  const timeval receiving = time_of(socket, SO_RCVTIMEO);
  to.set_send_timeout_s(static_cast<std::uint64_t>(sending.tv_sec));
  to.set_send_timeout_us(static_cast<std::uint64_t>(sending.tv_usec));
  to.set_receive_timeout_s(static_cast<std::uint64_t>(receiving.tv_sec));
  to.set_receive_timeout_us(static_cast<std::uint64_t>(receiving.tv_usec));
  to.set_reuse_address(flag(SO_REUSEADDR));
  if (const auto value = number(socket, SOL_SOCKET, SO_PRIORITY)) to.set_priority(static_cast<std::uint32_t>(*value));
  if (const auto value = number(socket, SOL_SOCKET, SO_RCVLOWAT)) to.set_low_water(static_cast<std::uint32_t>(*value));
  to.set_pass_credentials(flag(SO_PASSCRED));
  to.set_pass_security(flag(SO_PASSSEC));
  to.set_reuse_port(flag(SO_REUSEPORT));
  to.set_keep_alive(flag(SO_KEEPALIVE));
  to.set_out_of_band_inline(flag(SO_OOBINLINE) ? 1 : 0);
}

void option_from(Socket& socket, int level, int name, int value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  socket.options.push_back({level, name, {bytes.begin(), bytes.end()}});
}

void time_from(Socket& socket, int name, std::uint64_t seconds, std::uint64_t microseconds) {
  const timeval value{static_cast<time_t>(seconds), static_cast<suseconds_t>(microseconds)};
  const auto bytes = std::as_bytes(std::span(&value, 1));
  socket.options.push_back({SOL_SOCKET, name, {bytes.begin(), bytes.end()}});
}

// Of an image that is not relive's: what CRIU tells.
void options_from(const pb::SocketOptions& from, Socket& socket) {
  option_from(socket, SOL_SOCKET, SO_REUSEADDR, from.reuse_address() ? 1 : 0);
  if (socket.family != AF_UNIX) option_from(socket, SOL_SOCKET, SO_REUSEPORT, from.reuse_port() ? 1 : 0);
  option_from(socket, SOL_SOCKET, SO_KEEPALIVE, from.keep_alive() ? 1 : 0);
  option_from(socket, SOL_SOCKET, SO_OOBINLINE, from.out_of_band_inline() != 0 ? 1 : 0);
  if (from.has_low_water()) option_from(socket, SOL_SOCKET, SO_RCVLOWAT, static_cast<int>(from.low_water()));
  time_from(socket, SO_RCVTIMEO, from.receive_timeout_s(), from.receive_timeout_us());
  time_from(socket, SO_SNDTIMEO, from.send_timeout_s(), from.send_timeout_us());
  if (socket.family == AF_UNIX) {
    option_from(socket, SOL_SOCKET, SO_PASSCRED, from.pass_credentials() ? 1 : 0);
    option_from(socket, SOL_SOCKET, SO_PASSSEC, from.pass_security() ? 1 : 0);
  } else if (from.has_priority()) {
    option_from(socket, SOL_SOCKET, SO_PRIORITY, static_cast<int>(from.priority()));
  }
  constexpr std::uint32_t kSendLocked = 1;  // SOCK_SNDBUF_LOCK
  constexpr std::uint32_t kReceiveLocked = 2;
  if ((from.buffer_lock() & kSendLocked) != 0)
    option_from(socket, SOL_SOCKET, SO_SNDBUF, static_cast<int>(from.send_buffer() / 2));
  if ((from.buffer_lock() & kReceiveLocked) != 0)
    option_from(socket, SOL_SOCKET, SO_RCVBUF, static_cast<int>(from.receive_buffer() / 2));
}

std::uint32_t state_to(const Socket& socket) {
  switch (socket.state) {
    case SocketState::listening:
      return kListening;
    case SocketState::connected:
      return kEstablished;
    case SocketState::hung_up:
      return socket.family == AF_UNIX && socket.type != SOCK_DGRAM ? kEstablished : kClosed;
    case SocketState::fresh:
    case SocketState::bound:
      return kClosed;
  }
  return kClosed;
}

void extra_to(const Socket& socket, FileWriting& out, std::uint32_t id, pb::ExtraSocket& extra) {
  const auto bytes = [](const std::vector<std::byte>& from) {
    return std::string(reinterpret_cast<const char*>(from.data()), from.size());
  };
  extra.set_inode(socket.inode);
  extra.set_peer_inode(socket.peer_inode);
  extra.set_local(bytes(socket.local));
  extra.set_peer(bytes(socket.peer));
  extra.set_state(static_cast<std::uint32_t>(socket.state));
  if (socket.reset) extra.set_reset(true);
  extra.set_protocol(static_cast<std::uint32_t>(socket.protocol));
  for (const auto& option : socket.options) {
    pb::ExtraOption& made = *extra.add_options();
    made.set_level(option.level);
    made.set_name(option.name);
    made.set_value(bytes(option.value));
  }
  for (const std::uint64_t inode : socket.waiting) extra.add_waiting(inode);
  if (socket.family == AF_NETLINK) extra.set_type(socket.type);
  for (const model::Membership& membership : socket.memberships) {
    pb::ExtraMembership& made = *extra.add_memberships();
    made.set_level(membership.level);
    made.set_group(bytes(membership.group));
    made.set_excludes(membership.excludes);
    for (const auto& source : membership.sources) made.add_sources(bytes(source));
  }
  if (socket.file) {
    pb::ExtraSocketFile& made = *extra.mutable_file();
    made.set_inode(socket.file->inode);
    made.set_path(socket.file->path);
    made.set_directory(socket.file->directory);
    made.set_there(socket.file->there);
    made.set_deleted(socket.file->deleted);
    made.set_mode(socket.file->mode);
    made.set_owner(socket.file->owner);
    made.set_group(socket.file->group);
  }
  for (const model::Message& message : socket.unread) {
    pb::QueuedMessage entry;
    entry.set_socket(id);
    entry.set_length(static_cast<std::uint32_t>(message.bytes.size()));
    out.parts.queues[id].push_back({entry, message.bytes});
    pb::ExtraMessage& made = *extra.add_messages();
    made.set_from(bytes(message.from));
    made.set_foreign_sender(message.foreign_sender);
    made.set_unseen(message.unseen);
  }
}

std::vector<std::byte> bytes_of(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

// What waits, and, while it says the same as the entry, the part that only relive knows.
void extra_from(const pb::ExtraFile* extra, const FileReading& in, std::uint32_t id, Socket& socket) {
  const auto queue = in.parts.queues.find(id);
  if (queue != in.parts.queues.end())
    for (const WaitingMessage& waiting : queue->second) {
      model::Message message;
      message.bytes = waiting.bytes;
      for (const pb::ControlMessage& control : waiting.entry.control())
        if (control.rights_size() != 0) in.unsupported(id, "holds a message that carries open files");
      socket.unread.push_back(std::move(message));
    }
  if (extra == nullptr || !extra->has_socket()) return;
  const pb::ExtraSocket& more = extra->socket();
  if (static_cast<std::uint32_t>(more.inode()) != static_cast<std::uint32_t>(socket.inode)) return;
  socket.inode = more.inode();
  socket.peer_inode = more.peer_inode();
  socket.protocol = static_cast<int>(more.protocol());
  Socket other = socket;
  other.state = static_cast<SocketState>(more.state());
  if (more.state() <= static_cast<std::uint32_t>(SocketState::hung_up) && state_to(other) == state_to(socket))
    socket.state = other.state;
  socket.reset = more.reset();
  if (more.has_file()) {
    const pb::ExtraSocketFile& from = more.file();
    socket.file = model::SocketFile{.inode = from.inode(),
                                    .path = from.path(),
                                    .directory = from.directory(),
                                    .there = from.there(),
                                    .deleted = from.deleted(),
                                    .mode = from.mode(),
                                    .owner = from.owner(),
                                    .group = from.group()};
  }
  socket.waiting.assign(more.waiting().begin(), more.waiting().end());
  socket.memberships.clear();
  for (const pb::ExtraMembership& from : more.memberships()) {
    model::Membership made{.level = from.level(), .group = bytes_of(from.group()), .excludes = from.excludes()};
    for (const std::string& source : from.sources()) {
      if (source.size() != sizeof(sockaddr_storage))
        in.damaged(id, fmt::format("an address of {} bytes", source.size()));
      made.sources.push_back(bytes_of(source));
      made.sources.back().resize(sizeof(sockaddr_storage));
    }
    socket.memberships.push_back(std::move(made));
  }
  socket.options.clear();
  for (const pb::ExtraOption& option : more.options())
    socket.options.push_back({option.level(), option.name(), bytes_of(option.value())});
  if (socket.unread.size() != static_cast<std::size_t>(more.messages_size())) return;
  for (std::size_t i = 0; i < socket.unread.size(); ++i) {
    const pb::ExtraMessage& message = more.messages(static_cast<int>(i));
    socket.unread[i].from = bytes_of(message.from());
    socket.unread[i].foreign_sender = message.foreign_sender();
    socket.unread[i].unseen = message.unseen();
  }
}

std::string unix_name(const std::vector<std::byte>& address) {
  if (address.size() <= kNameAt) return {};
  std::string name(reinterpret_cast<const char*>(address.data()) + kNameAt, address.size() - kNameAt);
  // A path goes up to its zero, an abstract name has its own length.
  if (!name.empty() && name.front() != '\0') name.resize(::strnlen(name.data(), name.size()));
  return name;
}

std::vector<std::byte> unix_address(const std::string& name) {
  if (name.empty()) return {};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const bool path = name.front() != '\0';
  const std::size_t size = std::min(name.size(), kNameLimit);
  std::memcpy(address.sun_path, name.data(), size);
  const std::size_t total = kNameAt + std::min(kNameLimit, size + (path ? 1 : 0));
  const auto bytes = std::as_bytes(std::span(&address, 1)).first(total);
  return {bytes.begin(), bytes.end()};
}

struct InetAddress {
  std::uint32_t port = 0;
  std::vector<std::uint32_t> words;
};

InetAddress inet_from_sockaddr(const std::vector<std::byte>& address, int family) {
  InetAddress found;
  found.words.resize(family == AF_INET6 ? 4 : 1);
  if (family == AF_INET && address.size() >= sizeof(sockaddr_in)) {
    sockaddr_in in{};
    std::memcpy(&in, address.data(), sizeof in);
    found = {ntohs(in.sin_port), {in.sin_addr.s_addr}};
  } else if (family == AF_INET6 && address.size() >= sizeof(sockaddr_in6)) {
    sockaddr_in6 in{};
    std::memcpy(&in, address.data(), sizeof in);
    found.port = ntohs(in.sin6_port);
    std::memcpy(found.words.data(), &in.sin6_addr, sizeof in.sin6_addr);
  }
  return found;
}

std::vector<std::byte> sockaddr_of(std::uint32_t port, const auto& words, int family) {
  if (family == AF_INET6) {
    sockaddr_in6 in{};
    in.sin6_family = AF_INET6;
    in.sin6_port = htons(static_cast<std::uint16_t>(port));
    std::memcpy(&in.sin6_addr, words.data(), sizeof in.sin6_addr);
    const auto bytes = std::as_bytes(std::span(&in, 1));
    return {bytes.begin(), bytes.end()};
  }
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_port = htons(static_cast<std::uint16_t>(port));
  in.sin_addr.s_addr = words.Get(0);
  const auto bytes = std::as_bytes(std::span(&in, 1));
  return {bytes.begin(), bytes.end()};
}

void inet_to(const model::OpenFile& open, const Socket& socket, File& file) {
  file.set_type(static_cast<std::uint32_t>(FileType::inet_socket));
  pb::InetSocket& made = *file.mutable_inet();
  made.set_id(file.id());
  made.set_inode(static_cast<std::uint32_t>(socket.inode));
  made.set_family(static_cast<std::uint32_t>(socket.family));
  made.set_type(static_cast<std::uint32_t>(socket.type));
  made.set_protocol(static_cast<std::uint32_t>(socket.protocol));
  made.set_state(state_to(socket));
  const InetAddress local = inet_from_sockaddr(socket.local, socket.family);
  const InetAddress peer = inet_from_sockaddr(socket.peer, socket.family);
  made.set_local_port(local.port);
  made.set_peer_port(peer.port);
  made.set_flags(flags_to(open));
  made.set_backlog(static_cast<std::uint32_t>(socket.backlog));
  for (const std::uint32_t word : local.words) made.add_local(word);
  for (const std::uint32_t word : peer.words) made.add_peer(word);
  owner_to(open, *made.mutable_owner());
  options_to(socket, *made.mutable_options());
  if (const auto value = number(socket, IPPROTO_IPV6, IPV6_V6ONLY)) made.set_v6_only(*value != 0);
  if (const auto value = number(socket, IPPROTO_IP, IP_FREEBIND)) made.mutable_ip_options()->set_free_bind(*value != 0);
  if (socket.shutdown != 0) made.set_shutdown(static_cast<std::uint32_t>(socket.shutdown));
}

template <class Address>
Address address_as(const std::vector<std::byte>& bytes) {
  Address address{};
  std::memcpy(&address, bytes.data(), std::min(sizeof address, bytes.size()));
  return address;
}
template <class Address>
std::vector<std::byte> bytes_as(const Address& address) {
  const auto bytes = std::as_bytes(std::span(&address, 1));
  return {bytes.begin(), bytes.end()};
}

void netlink_to(const model::OpenFile& open, const Socket& socket, File& file) {
  file.set_type(static_cast<std::uint32_t>(FileType::netlink_socket));
  pb::NetlinkSocket& made = *file.mutable_netlink_socket();
  made.set_id(file.id());
  made.set_inode(static_cast<std::uint32_t>(socket.inode));
  made.set_protocol(static_cast<std::uint32_t>(socket.protocol));
  made.set_state(state_to(socket));
  made.set_flags(flags_to(open));
  made.set_port(address_as<sockaddr_nl>(socket.local).nl_pid);
  constexpr std::uint32_t kBits = 32;
  constexpr std::uint32_t kMostWords = 64;
  for (const model::Membership& membership : socket.memberships) {
    std::uint32_t group = 0;
    std::memcpy(&group, membership.group.data(), std::min(sizeof group, membership.group.size()));
    if (group == 0 || (group - 1) / kBits >= kMostWords) continue;
    while (static_cast<std::uint32_t>(made.groups_size()) <= (group - 1) / kBits) made.add_groups(0);
    const int word = static_cast<int>((group - 1) / kBits);
    made.set_groups(word, made.groups(word) | 1U << (group - 1) % kBits);
  }
  const auto peer = address_as<sockaddr_nl>(socket.peer);
  made.set_peer_port(peer.nl_pid);
  made.set_peer_groups(peer.nl_groups);
  owner_to(open, *made.mutable_owner());
  options_to(socket, *made.mutable_options());
}

void packet_to(const model::OpenFile& open, const Socket& socket, File& file) {
  file.set_type(static_cast<std::uint32_t>(FileType::packet_socket));
  pb::PacketSocket& made = *file.mutable_packet_socket();
  const auto local = address_as<sockaddr_ll>(socket.local);
  const auto value = [&](int name) { return static_cast<std::uint32_t>(number(socket, SOL_PACKET, name).value_or(0)); };
  made.set_id(file.id());
  made.set_type(static_cast<std::uint32_t>(socket.type));
  made.set_protocol(local.sll_protocol);
  made.set_flags(flags_to(open));
  made.set_index(static_cast<std::uint32_t>(local.sll_ifindex));
  owner_to(open, *made.mutable_owner());
  options_to(socket, *made.mutable_options());
  made.set_version(value(PACKET_VERSION));
  made.set_reserve(value(PACKET_RESERVE));
  made.set_auxiliary_data(value(PACKET_AUXDATA) != 0);
  made.set_original_device(value(PACKET_ORIGDEV) != 0);
  made.set_header(value(PACKET_VNET_HDR) != 0);
  made.set_loss(value(PACKET_LOSS) != 0);
  made.set_time_stamp(value(PACKET_TIMESTAMP));
  made.set_copy_threshold(value(PACKET_COPY_THRESH));
  for (const model::Membership& membership : socket.memberships) {
    const auto from = address_as<packet_mreq>(membership.group);
    pb::PacketGroup& group = *made.add_groups();
    group.set_index(static_cast<std::uint32_t>(from.mr_ifindex));
    group.set_type(from.mr_type);
    group.set_address(from.mr_address, std::min<std::size_t>(from.mr_alen, sizeof from.mr_address));
  }
}

void unix_to(const model::OpenFile& open, const Socket& socket, File& file) {
  file.set_type(static_cast<std::uint32_t>(FileType::unix_socket));
  pb::UnixSocket& made = *file.mutable_unix_socket();
  made.set_id(file.id());
  made.set_inode(static_cast<std::uint32_t>(socket.inode));
  made.set_type(static_cast<std::uint32_t>(socket.type));
  made.set_state(state_to(socket));
  made.set_flags(flags_to(open));
  made.set_image_flags(0);
  made.set_backlog(static_cast<std::uint32_t>(socket.backlog));
  made.set_peer(static_cast<std::uint32_t>(socket.peer_inode));
  owner_to(open, *made.mutable_owner());
  options_to(socket, *made.mutable_options());
  made.set_name(unix_name(socket.local));
  if (socket.shutdown != 0) made.set_shutdown(static_cast<std::uint32_t>(socket.shutdown));
  if (!socket.file) return;
  if (socket.file->there) {
    pb::FilePermissions& permissions = *made.mutable_permissions();
    permissions.set_mode(S_IFSOCK | socket.file->mode);
    permissions.set_uid(socket.file->owner);
    permissions.set_gid(socket.file->group);
  }
  if (model::is_relative(socket) && !socket.file->directory.empty()) made.set_name_directory(socket.file->directory);
  if (socket.file->deleted) made.set_deleted(true);
}

SocketState state_from(std::uint32_t state, bool bound, bool connected) {
  if (state == kListening) return SocketState::listening;
  if (connected && state != kClosed) return SocketState::connected;
  if (state != kClosed) return SocketState::hung_up;
  return bound ? SocketState::bound : SocketState::fresh;
}

}  // namespace

void socket_to(const model::OpenFile& open, const model::Socket& socket, FileWriting& out, File& file,
               pb::ExtraFile& extra) {
  if (socket.family == AF_UNIX)
    unix_to(open, socket, file);
  else if (socket.family == AF_NETLINK)
    netlink_to(open, socket, file);
  else if (socket.family == AF_PACKET)
    packet_to(open, socket, file);
  else
    inet_to(open, socket, file);
  extra_to(socket, out, file.id(), *extra.mutable_socket());
}

model::FileObject unix_socket_from(const File& file, const pb::ExtraFile* extra, const FileReading& in,
                                   model::OpenFile& open) {
  const pb::UnixSocket& from = file.unix_socket();
  open.status_flags = from.flags();
  owner_from(from.owner(), open);
  Socket socket;
  socket.inode = from.inode();
  socket.family = AF_UNIX;
  socket.type = static_cast<int>(from.type());
  if (socket.type != SOCK_STREAM && socket.type != SOCK_DGRAM && socket.type != SOCK_SEQPACKET)
    in.damaged(file.id(), fmt::format("unix socket of type {}", from.type()));
  if (from.name().size() > kNameLimit) in.damaged(file.id(), fmt::format("a name of {} bytes", from.name().size()));
  if (from.image_flags() != 0) in.unsupported(file.id(), "is connected to somebody outside the image");
  socket.local = unix_address(from.name());
  socket.backlog = static_cast<int>(from.backlog());
  socket.peer_inode = from.peer();
  socket.shutdown = static_cast<int>(from.shutdown() & 3);
  socket.state = state_from(from.state(), !socket.local.empty(), from.peer() != 0);
  if (socket.type == SOCK_DGRAM && from.peer() == 0)
    socket.state = socket.local.empty() ? SocketState::fresh : SocketState::bound;
  options_from(from.options(), socket);
  extra_from(extra, in, file.id(), socket);
  if (extra != nullptr && extra->has_socket()) {
    if (unix_name(bytes_of(extra->socket().local())) == from.name()) socket.local = bytes_of(extra->socket().local());
    socket.peer = bytes_of(extra->socket().peer());
  }
  return socket;
}

model::FileObject inet_socket_from(const File& file, const pb::ExtraFile* extra, const FileReading& in,
                                   model::OpenFile& open) {
  const pb::InetSocket& from = file.inet();
  open.status_flags = from.flags();
  owner_from(from.owner(), open);
  Socket socket;
  socket.inode = from.inode();
  socket.family = static_cast<int>(from.family());
  socket.type = static_cast<int>(from.type());
  socket.protocol = static_cast<int>(from.protocol());
  const int words = socket.family == AF_INET6 ? 4 : 1;
  if (socket.family != AF_INET && socket.family != AF_INET6) {
    in.damaged(file.id(), fmt::format("internet socket of family {}", from.family()));
    return socket;
  }
  if (from.local_size() != words || from.peer_size() != words) {
    in.damaged(file.id(),
               fmt::format("addresses of {} and {} words, not {}", from.local_size(), from.peer_size(), words));
    return socket;
  }
  if (from.local_port() > 0xffff || from.peer_port() > 0xffff) {
    in.damaged(file.id(), fmt::format("ports {} and {}", from.local_port(), from.peer_port()));
    return socket;
  }
  if (from.local_port() != 0) socket.local = sockaddr_of(from.local_port(), from.local(), socket.family);
  // Raw and ping sockets are connected to an address alone.
  const bool connected = from.peer_port() != 0 || (model::is_addressed(socket) && from.state() == kEstablished);
  if (connected) socket.peer = sockaddr_of(from.peer_port(), from.peer(), socket.family);
  socket.backlog = static_cast<int>(from.backlog());
  socket.shutdown = static_cast<int>(from.shutdown() & 3);
  socket.state = state_from(from.state(), from.local_port() != 0, connected);
  options_from(from.options(), socket);
  if (from.has_v6_only()) option_from(socket, IPPROTO_IPV6, IPV6_V6ONLY, from.v6_only() ? 1 : 0);
  extra_from(extra, in, file.id(), socket);
  if (extra != nullptr && extra->has_socket()) {
    const auto local = bytes_of(extra->socket().local());
    const auto peer = bytes_of(extra->socket().peer());
    const auto same = [&](const std::vector<std::byte>& address, std::uint32_t port, const auto& there) {
      const InetAddress told = inet_from_sockaddr(address, socket.family);
      return told.port == port && std::ranges::equal(told.words, there);
    };
    if (same(local, from.local_port(), from.local())) socket.local = local;
    if (same(peer, from.peer_port(), from.peer())) socket.peer = peer;
  }
  return socket;
}

model::FileObject netlink_socket_from(const File& file, const pb::ExtraFile* extra, const FileReading& in,
                                      model::OpenFile& open) {
  const pb::NetlinkSocket& from = file.netlink_socket();
  open.status_flags = from.flags();
  owner_from(from.owner(), open);
  Socket socket;
  socket.inode = from.inode();
  socket.family = AF_NETLINK;
  socket.type = extra != nullptr && extra->socket().type() == SOCK_DGRAM ? SOCK_DGRAM : SOCK_RAW;
  socket.protocol = static_cast<int>(from.protocol());
  sockaddr_nl local{};
  local.nl_family = AF_NETLINK;
  local.nl_pid = from.port();
  socket.local = bytes_as(local);
  socket.state = from.port() != 0 ? SocketState::bound : SocketState::fresh;
  if (from.peer_port() != 0 || from.peer_groups() != 0) {
    sockaddr_nl peer{};
    peer.nl_family = AF_NETLINK;
    peer.nl_pid = from.peer_port();
    peer.nl_groups = from.peer_groups();
    socket.peer = bytes_as(peer);
    socket.state = SocketState::connected;
  }
  for (int word = 0; word < from.groups_size(); ++word)
    for (std::uint32_t bit = 0; bit < 32; ++bit)
      if ((from.groups(word) >> bit & 1U) != 0)
        socket.memberships.push_back(
            {.level = SOL_NETLINK, .group = bytes_as(static_cast<std::uint32_t>(word) * 32 + bit + 1)});
  options_from(from.options(), socket);
  extra_from(extra, in, file.id(), socket);
  return socket;
}

model::FileObject packet_socket_from(const File& file, const pb::ExtraFile* extra, const FileReading& in,
                                     model::OpenFile& open) {
  const pb::PacketSocket& from = file.packet_socket();
  open.status_flags = from.flags();
  owner_from(from.owner(), open);
  Socket socket;
  socket.family = AF_PACKET;
  socket.type = static_cast<int>(from.type());
  if (socket.type != SOCK_RAW && socket.type != SOCK_DGRAM)
    in.damaged(file.id(), fmt::format("packet socket of type {}", from.type()));
  socket.protocol = static_cast<int>(from.protocol());
  sockaddr_ll local{};
  local.sll_family = AF_PACKET;
  local.sll_protocol = static_cast<std::uint16_t>(from.protocol());
  local.sll_ifindex = static_cast<int>(from.index());
  socket.local = bytes_as(local);
  socket.state = from.protocol() != 0 || from.index() != 0 ? SocketState::bound : SocketState::fresh;
  for (const pb::PacketGroup& group : from.groups()) {
    packet_mreq request{};
    request.mr_ifindex = static_cast<int>(group.index());
    request.mr_type = static_cast<std::uint16_t>(group.type());
    if (group.address().size() > sizeof request.mr_address)
      in.damaged(file.id(), fmt::format("an address of {} bytes", group.address().size()));
    request.mr_alen = static_cast<std::uint16_t>(std::min(group.address().size(), sizeof request.mr_address));
    std::memcpy(request.mr_address, group.address().data(), request.mr_alen);
    socket.memberships.push_back({.level = SOL_PACKET, .group = bytes_as(request)});
  }
  options_from(from.options(), socket);
  const auto flag = [&](int name, int value) {
    if (value != 0) option_from(socket, SOL_PACKET, name, value);
  };
  flag(PACKET_AUXDATA, from.auxiliary_data() ? 1 : 0);
  flag(PACKET_ORIGDEV, from.original_device() ? 1 : 0);
  flag(PACKET_VNET_HDR, from.header() ? 1 : 0);
  flag(PACKET_TIMESTAMP, static_cast<int>(from.time_stamp()));
  if (extra != nullptr) socket.inode = extra->socket().inode();  // the entry has none
  extra_from(extra, in, file.id(), socket);
  return socket;
}

}  // namespace relive::image::kinds
