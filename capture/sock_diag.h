// What sock_diag(7) tells of the sockets of our network namespace. Nothing where the kernel lacks the module.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"

namespace relive::capture {

// One that has a port: UDP or UDP-Lite, over IPv4 or IPv6.
struct DatagramSocket {
  std::uint64_t inode = 0;
  int protocol = 0;
  std::uint16_t port = 0;  // its own
  int shutdown = 0;        // RCV_SHUTDOWN 1, SEND_SHUTDOWN 2
};
Result<std::vector<DatagramSocket>> datagram_sockets();

}  // namespace relive::capture
