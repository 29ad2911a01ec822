// Sockets: what an open file description may lead to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/words.h"

namespace relive::model {

// An option as setsockopt(2) takes it. SO_ATTACH_FILTER has the filter's instructions as its value, none for no filter.
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

// What was sent at once to a socket that keeps boundaries; of a stream, bytes that one recvmsg(2) may give.
struct Message {
  std::vector<std::byte> bytes;
  std::vector<std::byte> from;          // sockaddr of the sender, of datagrams; empty where it has no name
  std::vector<std::size_t> files = {};  // that travel with it (SCM_RIGHTS): indices of the table's open files
  bool foreign_sender = false;          // its credentials (SCM_CREDENTIALS) are told, and are not the task's own
  bool unseen = false;                  // there is one, and looking at it would take an error that is pending
  bool operator==(const Message&) const = default;
};

// What a unix socket's name in the file system leads to. Files stay as they are, but one that is made anew is made as
// it was.
struct SocketFile {
  std::uint64_t inode = 0;  // its lower 32 bits, as sock_diag(7) tells them
  std::string path;         // as relive sees it; empty where it is not known
  std::string directory;    // that a relative name counts from; empty where it is not known
  bool there = false;       // the name leads to it
  bool deleted = false;     // nothing leads to it any more; neither of them: it was renamed, or cannot be found
  std::uint32_t mode = 0;   // permissions
  std::uint32_t owner = 0;
  std::uint32_t group = 0;
  bool operator==(const SocketFile&) const = default;
};

// A group that a socket has joined.
struct Membership {
  int level = 0;                 // IPPROTO_IP, IPPROTO_IPV6, SOL_NETLINK, SOL_PACKET
  std::vector<std::byte> group;  // as the option that joins it takes it: group_req (MCAST_JOIN_GROUP), the number of a
                                 // netlink group, packet_mreq
  bool excludes = true;          // everybody but `sources` is heard; else nobody but them
  std::vector<std::vector<std::byte>> sources = {};  // sockaddr_storage each
  bool operator==(const Membership&) const = default;
};

// A socket: TCP, UDP, UDP-Lite, ICMP ("ping") or raw over IPv4 or IPv6; unix, of all three types; netlink; packet.
struct Socket {
  std::uint64_t inode = 0;
  int family = 0;
  int type = 0;  // SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET
  int protocol = 0;
  SocketState state = SocketState::fresh;
  std::vector<std::byte> local;  // sockaddr; of netlink without groups, of packet sockets device and protocol alone
  std::vector<std::byte> peer;
  int backlog = 0;
  std::uint64_t peer_inode = 0;  // whom it is connected to, when that is a socket of this task; else 0
  int shutdown = 0;              // RCV_SHUTDOWN 1, SEND_SHUTDOWN 2, as sock_diag(7) tells it; of unix and datagram
                                 // sockets, and 0 of a stream whose peer is outside
  std::vector<Message> unread;   // not captured of what a peer outside sends through a connection
  bool reset = false;            // an error is pending; of unix sockets: the peer has closed without reading all
  std::vector<SocketOption> options;
  std::optional<SocketFile> file = std::nullopt;  // of one with a name in the file system of its own
  std::vector<Membership> memberships = {};       // in order
  // Unix, listening: who waits to be accepted, by the inode of the connecting end, in order.
  std::vector<std::uint64_t> waiting = {};
  bool operator==(const Socket&) const = default;
};

// Does it send to addresses, and know of no other socket? UDP, raw, netlink and packet sockets.
[[nodiscard]] bool is_addressed(const Socket& socket);
// Has it one of a space of ports, which no other socket may have? UDP, ping and netlink sockets.
[[nodiscard]] bool has_port(const Socket& socket);
// Of an address of the internet families; 0 for others.
[[nodiscard]] std::uint16_t port_of(std::span<const std::byte> address);
// All bytes of messages in a row.
[[nodiscard]] std::vector<std::byte> bytes_of(std::span<const Message> messages);
Words words(const Socket& socket);
// Does an unread message carry open files?
[[nodiscard]] bool carries_files(const Socket& socket);
// The path that a unix socket is bound to; empty for an abstract name, and for none.
[[nodiscard]] std::string path_of(const Socket& socket);
// Does its name count from a directory?
[[nodiscard]] bool is_relative(const Socket& socket);
// "127.0.0.1:55", "[::1]:55", "/run/x.sock", "@abstract", "unnamed".
[[nodiscard]] std::string address_text(std::span<const std::byte> address);

}  // namespace relive::model
