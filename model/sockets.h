// Sockets: what an open file description may lead to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/words.h"

namespace relive::model {

// An option as setsockopt(2) takes it.
struct SocketOption {
  int level = 0;
  int name = 0;
  std::vector<std::byte> value;
  bool operator==(const SocketOption&) const = default;
};

enum class SocketState : std::uint8_t {
  fresh,  // neither bound nor connected
  bound,  // has an address
  listening,
  connected,  // or about to be
  hung_up,    // was connected; nobody is at the other end any more
};

// A stream socket: TCP over IPv4 or IPv6, or unix.
struct Socket {
  std::uint64_t inode = 0;
  int family = 0;
  int protocol = 0;
  SocketState state = SocketState::fresh;
  std::vector<std::byte> local;  // sockaddr
  std::vector<std::byte> peer;
  int backlog = 0;
  std::uint64_t peer_inode = 0;  // the other end, when it is a socket of this task; else 0
  int shutdown = 0;              // RCV_SHUTDOWN 1, SEND_SHUTDOWN 2, as sock_diag(7) tells it; where peer_inode is known
  std::vector<std::byte> received;  // unread bytes, captured only when the peer is the task's own, or gone
  std::vector<SocketOption> options;
  bool operator==(const Socket&) const = default;
};

Words words(const Socket& socket);
// "127.0.0.1:55", "[::1]:55", "/run/x.sock", "@abstract", "unnamed".
[[nodiscard]] std::string address_text(std::span<const std::byte> address);

}  // namespace relive::model
