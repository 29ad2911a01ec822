// The options of a socket that relive puts back.
#include <linux/icmp.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "capture/descriptors.h"
#include "capture/sockets.h"

namespace relive::capture {

namespace {

// Of the kernel's uapi; older C library headers lack them.
constexpr int kBufferLock = 72;  // SO_BUF_LOCK, Linux 5.14
constexpr int kSendBufferLocked = 1;
constexpr int kReceiveBufferLocked = 2;
constexpr int kPassPidfd = 76;             // SO_PASSPIDFD, Linux 6.5
constexpr int kPassRights = 83;            // SO_PASSRIGHTS, Linux 6.16
constexpr int kReceiveMark = 75;           // SO_RCVMARK, Linux 5.19
constexpr int kReceiveErrorRfc4884 = 26;   // IP_RECVERR_RFC4884, Linux 5.9
constexpr int kReceiveError6Rfc4884 = 31;  // IPV6_RECVERR_RFC4884
constexpr int kLocalPortRange = 51;        // IP_LOCAL_PORT_RANGE, Linux 6.3
constexpr int kSentCoverage = 10;          // UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV: udplite(7)
constexpr int kReceivedCoverage = 11;
constexpr int kNoFragments = 22;        // IP_NODEFRAG
constexpr int kHeaderIncluded6 = 36;    // IPV6_HDRINCL, Linux 4.5
constexpr int kVirtualHeaderSize = 24;  // PACKET_VNET_HDR_SZ, Linux 6.5

enum class Of : std::uint8_t {  // sockets
  every,
  unix_domain,
  internet,  // whatever is not unix
  ipv6,
  tcp,
  addressed,  // of them, UDP, raw, netlink and packet sockets
  datagram,   // UDP and raw
  raw,
  netlink,
  packet,
};
struct OptionName {
  int level;
  int name;
  Of of;
};

// Set in this order.
constexpr OptionName kOptions[] = {
    {SOL_SOCKET, SO_REUSEADDR, Of::every},
    {SOL_SOCKET, SO_REUSEPORT, Of::internet},
    {SOL_SOCKET, SO_KEEPALIVE, Of::every},
    {SOL_SOCKET, SO_OOBINLINE, Of::every},
    {SOL_SOCKET, SO_LINGER, Of::every},
    {SOL_SOCKET, SO_RCVLOWAT, Of::every},
    {SOL_SOCKET, SO_RCVTIMEO, Of::every},
    {SOL_SOCKET, SO_SNDTIMEO, Of::every},
    {SOL_SOCKET, SO_PASSCRED, Of::unix_domain},
    {SOL_SOCKET, SO_PASSSEC, Of::unix_domain},
    {SOL_SOCKET, kPassPidfd, Of::unix_domain},
    {SOL_SOCKET, kPassRights, Of::unix_domain},
    {SOL_SOCKET, SO_PEEK_OFF, Of::unix_domain},
    {SOL_SOCKET, SO_PEEK_OFF, Of::addressed},
    {SOL_SOCKET, SO_TIMESTAMP, Of::every},
    {SOL_SOCKET, SO_TIMESTAMPNS, Of::every},
    {SOL_SOCKET, SO_PRIORITY, Of::internet},
    {SOL_SOCKET, SO_BINDTODEVICE, Of::internet},
    {IPPROTO_IPV6, IPV6_V6ONLY, Of::ipv6},
    {IPPROTO_IPV6, IPV6_TCLASS, Of::ipv6},
    {IPPROTO_IP, IP_TOS, Of::internet},
    {IPPROTO_IP, IP_FREEBIND, Of::internet},
    {SOL_SOCKET, SO_BROADCAST, Of::addressed},
    {SOL_SOCKET, SO_DONTROUTE, Of::addressed},
    {SOL_SOCKET, SO_NO_CHECK, Of::addressed},
    {SOL_SOCKET, SO_RXQ_OVFL, Of::addressed},
    {SOL_SOCKET, SO_SELECT_ERR_QUEUE, Of::addressed},
    {SOL_SOCKET, SO_TIMESTAMPING, Of::addressed},
    {SOL_SOCKET, SO_MARK, Of::addressed},
    {SOL_SOCKET, kReceiveMark, Of::addressed},
    {SOL_SOCKET, SO_ZEROCOPY, Of::addressed},
    {SOL_SOCKET, SO_TXTIME, Of::addressed},
    {SOL_SOCKET, SO_MAX_PACING_RATE, Of::addressed},
    {SOL_SOCKET, SO_BUSY_POLL, Of::addressed},
    {IPPROTO_IP, IP_TTL, Of::datagram},
    {IPPROTO_IP, IP_OPTIONS, Of::datagram},
    {IPPROTO_IP, IP_MTU_DISCOVER, Of::datagram},
    {IPPROTO_IP, IP_RECVERR, Of::datagram},
    {IPPROTO_IP, kReceiveErrorRfc4884, Of::datagram},
    {IPPROTO_IP, IP_PKTINFO, Of::datagram},
    {IPPROTO_IP, IP_RECVTTL, Of::datagram},
    {IPPROTO_IP, IP_RECVTOS, Of::datagram},
    {IPPROTO_IP, IP_RECVOPTS, Of::datagram},
    {IPPROTO_IP, IP_RETOPTS, Of::datagram},
    {IPPROTO_IP, IP_PASSSEC, Of::datagram},
    {IPPROTO_IP, IP_RECVORIGDSTADDR, Of::datagram},
    {IPPROTO_IP, IP_RECVFRAGSIZE, Of::datagram},
    {IPPROTO_IP, IP_CHECKSUM, Of::datagram},
    {IPPROTO_IP, IP_MINTTL, Of::datagram},
    {IPPROTO_IP, IP_TRANSPARENT, Of::datagram},
    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, Of::datagram},
    {IPPROTO_IP, kLocalPortRange, Of::datagram},
    {IPPROTO_IP, IP_UNICAST_IF, Of::datagram},
    {IPPROTO_IP, IP_MULTICAST_IF, Of::datagram},
    {IPPROTO_IP, IP_MULTICAST_TTL, Of::datagram},
    {IPPROTO_IP, IP_MULTICAST_LOOP, Of::datagram},
    {IPPROTO_IP, IP_MULTICAST_ALL, Of::datagram},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS, Of::datagram},
    {IPPROTO_IPV6, IPV6_MTU_DISCOVER, Of::datagram},
    {IPPROTO_IPV6, IPV6_DONTFRAG, Of::datagram},
    {IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, Of::datagram},
    {IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, Of::datagram},
    {IPPROTO_IPV6, IPV6_RECVERR, Of::datagram},
    {IPPROTO_IPV6, kReceiveError6Rfc4884, Of::datagram},
    {IPPROTO_IPV6, IPV6_RECVPKTINFO, Of::datagram},
    {IPPROTO_IPV6, IPV6_RECVHOPLIMIT, Of::datagram},
    {IPPROTO_IPV6, IPV6_RECVTCLASS, Of::datagram},
    {IPPROTO_IPV6, IPV6_RECVRTHDR, Of::datagram},
    {IPPROTO_IPV6, IPV6_RECVHOPOPTS, Of::datagram},
    {IPPROTO_IPV6, IPV6_RECVDSTOPTS, Of::datagram},
    {IPPROTO_IPV6, IPV6_RECVPATHMTU, Of::datagram},
    {IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, Of::datagram},
    {IPPROTO_IPV6, IPV6_RECVFRAGSIZE, Of::datagram},
    {IPPROTO_IPV6, IPV6_2292PKTINFO, Of::datagram},
    {IPPROTO_IPV6, IPV6_2292HOPLIMIT, Of::datagram},
    {IPPROTO_IPV6, IPV6_2292RTHDR, Of::datagram},
    {IPPROTO_IPV6, IPV6_2292HOPOPTS, Of::datagram},
    {IPPROTO_IPV6, IPV6_2292DSTOPTS, Of::datagram},
    {IPPROTO_IPV6, IPV6_MINHOPCOUNT, Of::datagram},
    {IPPROTO_IPV6, IPV6_TRANSPARENT, Of::datagram},
    {IPPROTO_IPV6, IPV6_FREEBIND, Of::datagram},
    {IPPROTO_IPV6, IPV6_UNICAST_IF, Of::datagram},
    {IPPROTO_IPV6, IPV6_MULTICAST_IF, Of::datagram},
    {IPPROTO_IPV6, IPV6_MULTICAST_HOPS, Of::datagram},
    {IPPROTO_IPV6, IPV6_MULTICAST_LOOP, Of::datagram},
    {IPPROTO_IPV6, IPV6_MULTICAST_ALL, Of::datagram},
    {IPPROTO_UDP, UDP_CORK, Of::datagram},
    {IPPROTO_UDP, UDP_ENCAP, Of::datagram},
    {IPPROTO_UDP, UDP_NO_CHECK6_TX, Of::datagram},
    {IPPROTO_UDP, UDP_NO_CHECK6_RX, Of::datagram},
    {IPPROTO_UDP, UDP_SEGMENT, Of::datagram},
    {IPPROTO_UDP, UDP_GRO, Of::datagram},
    {IPPROTO_UDPLITE, kSentCoverage, Of::datagram},
    {IPPROTO_UDPLITE, kReceivedCoverage, Of::datagram},
    {IPPROTO_IP, IP_HDRINCL, Of::raw},
    {IPPROTO_IP, kNoFragments, Of::raw},
    {IPPROTO_IPV6, kHeaderIncluded6, Of::raw},
    {IPPROTO_IPV6, IPV6_CHECKSUM, Of::raw},
    {SOL_RAW, ICMP_FILTER, Of::raw},
    {IPPROTO_ICMPV6, ICMP6_FILTER, Of::raw},
    {SOL_NETLINK, NETLINK_PKTINFO, Of::netlink},
    {SOL_NETLINK, NETLINK_BROADCAST_ERROR, Of::netlink},
    {SOL_NETLINK, NETLINK_NO_ENOBUFS, Of::netlink},
    {SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, Of::netlink},
    {SOL_NETLINK, NETLINK_CAP_ACK, Of::netlink},
    {SOL_NETLINK, NETLINK_EXT_ACK, Of::netlink},
    {SOL_NETLINK, NETLINK_GET_STRICT_CHK, Of::netlink},
    {SOL_PACKET, PACKET_AUXDATA, Of::packet},
    {SOL_PACKET, PACKET_ORIGDEV, Of::packet},
    {SOL_PACKET, PACKET_VERSION, Of::packet},
    {SOL_PACKET, PACKET_RESERVE, Of::packet},
    {SOL_PACKET, PACKET_LOSS, Of::packet},
    {SOL_PACKET, PACKET_VNET_HDR, Of::packet},
    {SOL_PACKET, PACKET_TIMESTAMP, Of::packet},
    {SOL_PACKET, PACKET_COPY_THRESH, Of::packet},
    {SOL_PACKET, PACKET_QDISC_BYPASS, Of::packet},
    {SOL_PACKET, PACKET_IGNORE_OUTGOING, Of::packet},
    {SOL_PACKET, kVirtualHeaderSize, Of::packet},
    {IPPROTO_TCP, TCP_NODELAY, Of::tcp},
    {IPPROTO_TCP, TCP_CORK, Of::tcp},
    {IPPROTO_TCP, TCP_KEEPIDLE, Of::tcp},
    {IPPROTO_TCP, TCP_KEEPINTVL, Of::tcp},
    {IPPROTO_TCP, TCP_KEEPCNT, Of::tcp},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, Of::tcp},
    {IPPROTO_TCP, TCP_SYNCNT, Of::tcp},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, Of::tcp},
    {IPPROTO_TCP, TCP_FASTOPEN, Of::tcp},
};

bool applies(Of of, int family, int type) {
  const bool inet = family == AF_INET || family == AF_INET6;
  switch (of) {
    case Of::every:
      return true;
    case Of::unix_domain:
      return family == AF_UNIX;
    case Of::internet:
      return family != AF_UNIX;
    case Of::ipv6:
      return family == AF_INET6;
    case Of::tcp:
      return inet && type == SOCK_STREAM;
    case Of::addressed:
      return family != AF_UNIX && type != SOCK_STREAM;
    case Of::datagram:
      return inet && type != SOCK_STREAM;
    case Of::raw:
      return inet && type == SOCK_RAW;
    case Of::netlink:
      return family == AF_NETLINK;
    case Of::packet:
      return family == AF_PACKET;
  }
  return false;
}

int integer_of(int socket, int level, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  return ::getsockopt(socket, level, name, &value, &size) == 0 ? value : 0;
}

std::vector<std::byte> bytes_of(int number) {
  const auto bytes = std::as_bytes(std::span(&number, 1));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

Result<std::vector<std::byte>> read_filter(int socket) {
  constexpr std::size_t kInstruction = 8;  // sizeof(sock_filter)
  socklen_t count = 0;                     // in: 0 asks how many instructions there are; out: that many
  if (::getsockopt(socket, SOL_SOCKET, SO_GET_FILTER, nullptr, &count) != 0)
    return fail_errno("getsockopt", "SO_GET_FILTER");
  std::vector<std::byte> program(count * kInstruction);
  if (count != 0 && ::getsockopt(socket, SOL_SOCKET, SO_GET_FILTER, program.data(), &count) != 0)
    return fail_errno("getsockopt", "SO_GET_FILTER");
  return program;
}

std::vector<model::SocketOption> read_socket_options(int socket, int family, int type) {
  std::vector<model::SocketOption> options;
  std::array<std::byte, 64> value{};
  for (const OptionName& option : kOptions) {
    if (!applies(option.of, family, type)) continue;
    socklen_t size = value.size();
    if (::getsockopt(socket, option.level, option.name, value.data(), &size) != 0) continue;
    options.push_back({option.level, option.name, {value.begin(), value.begin() + size}});
  }
  // The kernel sizes the buffers as it likes unless the program has set them; it doubles what it is given (socket(7)).
  const int locked = integer_of(socket, SOL_SOCKET, kBufferLock);
  const auto add = [&](int name, std::vector<std::byte> bytes) {
    options.push_back({SOL_SOCKET, name, std::move(bytes)});
  };
  if ((locked & kSendBufferLocked) != 0) add(SO_SNDBUF, bytes_of(integer_of(socket, SOL_SOCKET, SO_SNDBUF) / 2));
  if ((locked & kReceiveBufferLocked) != 0) add(SO_RCVBUF, bytes_of(integer_of(socket, SOL_SOCKET, SO_RCVBUF) / 2));
  add(kBufferLock, bytes_of(locked));
  if (applies(Of::addressed, family, type)) {
    if (auto filter = read_filter(socket)) add(SO_ATTACH_FILTER, std::move(*filter));
    add(SO_LOCK_FILTER, bytes_of(integer_of(socket, SOL_SOCKET, SO_LOCK_FILTER)));
  }
  return options;
}

}  // namespace relive::capture
