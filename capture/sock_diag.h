// What sock_diag(7) tells of the sockets of our network namespace. Nothing where the kernel lacks the module.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/sockets.h"

namespace relive::capture {

// One that has a port: UDP or UDP-Lite, over IPv4 or IPv6.
struct DatagramSocket {
  std::uint64_t inode = 0;
  int protocol = 0;
  std::uint16_t port = 0;  // its own
  int shutdown = 0;        // RCV_SHUTDOWN 1, SEND_SHUTDOWN 2
};
Result<std::vector<DatagramSocket>> datagram_sockets();

// A raw or ping socket that is connected. getpeername(2) tells only of a peer with a port, which they lack, and few
// kernels have raw_diag.
struct RawSocket {
  std::uint64_t inode = 0;
  std::vector<std::byte> peer;  // sockaddr
};
// From the text of /proc/net/raw, raw6, icmp or icmp6.
std::vector<RawSocket> parse_connected_raw(std::string_view text);

struct PacketSocket {
  bool ring = false;  // frames are shared with the kernel
  std::vector<model::Membership> memberships;
};
// Nothing where there is none with this inode.
Result<std::optional<PacketSocket>> packet_socket(std::uint64_t inode);

}  // namespace relive::capture
