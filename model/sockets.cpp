#include "model/sockets.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace relive::model {

namespace {

std::string_view state_text(SocketState state) {
  switch (state) {
    case SocketState::fresh:
      return "fresh";
    case SocketState::bound:
      return "bound";
    case SocketState::listening:
      return "listening";
    case SocketState::connected:
      return "connected";
    case SocketState::hung_up:
      return "hung up";
  }
  return "?";
}

std::string_view kind_of(const Socket& socket) {
  if (socket.family == AF_NETLINK) return "netlink socket";
  if (socket.family == AF_PACKET) return "packet socket";
  if (is_addressed(socket) && socket.type == SOCK_RAW) return "raw socket";
  if (is_addressed(socket) && socket.protocol == IPPROTO_UDPLITE) return "UDP-Lite socket";
  if (is_addressed(socket)) return socket.protocol == IPPROTO_UDP ? "UDP socket" : "ping socket";
  if (socket.family != AF_UNIX) return "socket";
  switch (socket.type) {
    case SOCK_DGRAM:
      return "unix datagram socket";
    case SOCK_SEQPACKET:
      return "unix seqpacket socket";
    default:
      return "unix socket";
  }
}

std::string phrase_of(const Socket& socket) {
  const std::string_view kind = kind_of(socket);
  switch (socket.state) {
    case SocketState::fresh:
      return fmt::format("{}, not connected", kind);
    case SocketState::bound:
      return fmt::format("{} at {}", kind, address_text(socket.local));
    case SocketState::listening:
      return fmt::format("{} listening at {}", kind, address_text(socket.local));
    case SocketState::connected:
      if (socket.peer_inode != 0 && socket.family == AF_UNIX) return fmt::format("{} to another one of the task", kind);
      return fmt::format("{} {} -> {}", kind, address_text(socket.local), address_text(socket.peer));
    case SocketState::hung_up:
      return fmt::format("{} whose peer is gone", kind);
  }
  return "socket";
}

}  // namespace

Words words(const Socket& socket) {
  std::string text(state_text(socket.state));
  if (!socket.local.empty()) text += " " + address_text(socket.local);
  if (!socket.peer.empty()) text += " <-> " + address_text(socket.peer);
  return {.kind = std::string(kind_of(socket)), .detail = std::move(text), .phrase = phrase_of(socket)};
}

bool carries_files(const Socket& socket) {
  return std::ranges::any_of(socket.unread, [](const Message& message) { return !message.files.empty(); });
}

std::string path_of(const Socket& socket) {
  constexpr std::size_t kPath = offsetof(sockaddr_un, sun_path);
  if (socket.family != AF_UNIX || socket.local.size() <= kPath || socket.local[kPath] == std::byte{0}) return {};
  return address_text(socket.local);
}
bool is_relative(const Socket& socket) {
  const std::string path = path_of(socket);
  return !path.empty() && !path.starts_with('/');
}

bool is_addressed(const Socket& socket) { return socket.family != AF_UNIX && socket.type != SOCK_STREAM; }

bool has_port(const Socket& socket) {
  return socket.family == AF_NETLINK || (socket.family != AF_PACKET && socket.type == SOCK_DGRAM);
}

std::uint16_t port_of(std::span<const std::byte> address) {
  sa_family_t family = AF_UNSPEC;
  in_port_t port = 0;  // at the same place in sockaddr_in and sockaddr_in6
  if (address.size() < sizeof(sockaddr_in)) return 0;
  std::memcpy(&family, address.data(), sizeof family);
  std::memcpy(&port, address.data() + offsetof(sockaddr_in, sin_port), sizeof port);
  return family == AF_INET || family == AF_INET6 ? ntohs(port) : 0;
}

std::vector<std::byte> bytes_of(std::span<const Message> messages) {
  std::vector<std::byte> bytes;
  for (const Message& message : messages) bytes.insert(bytes.end(), message.bytes.begin(), message.bytes.end());
  return bytes;
}

std::string address_text(std::span<const std::byte> address) {
  sockaddr_storage storage{};
  std::memcpy(&storage, address.data(), std::min(address.size(), sizeof storage));
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (storage.ss_family == AF_INET && address.size() >= sizeof(sockaddr_in)) {
    sockaddr_in in{};
    std::memcpy(&in, &storage, sizeof in);
    ::inet_ntop(AF_INET, &in.sin_addr, text.data(), text.size());
    return fmt::format("{}:{}", text.data(), ntohs(in.sin_port));
  }
  if (storage.ss_family == AF_INET6 && address.size() >= sizeof(sockaddr_in6)) {
    sockaddr_in6 in{};
    std::memcpy(&in, &storage, sizeof in);
    ::inet_ntop(AF_INET6, &in.sin6_addr, text.data(), text.size());
    return fmt::format("[{}]:{}", text.data(), ntohs(in.sin6_port));
  }
  if (storage.ss_family == AF_NETLINK) {
    sockaddr_nl netlink{};
    std::memcpy(&netlink, &storage, sizeof netlink);
    return fmt::format("port {}", netlink.nl_pid);
  }
  if (storage.ss_family == AF_PACKET) {
    sockaddr_ll link{};
    std::memcpy(&link, &storage, sizeof link);
    return fmt::format("device {}, protocol {:#06x}", link.sll_ifindex, ntohs(link.sll_protocol));
  }
  constexpr std::size_t kPath = offsetof(sockaddr_un, sun_path);
  if (storage.ss_family == AF_UNIX && address.size() > kPath) {
    const char* const path = reinterpret_cast<const char*>(address.data()) + kPath;
    const std::size_t size = address.size() - kPath;
    if (path[0] == '\0') return "@" + std::string(path + 1, size - 1);
    return {path, ::strnlen(path, size)};
  }
  return "unnamed";
}

}  // namespace relive::model
