#include "apply/repaired_pair.h"

#include <fmt/format.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

namespace relive::apply {

namespace {

// Sequence numbers are nobody's business but the two sockets'.
constexpr std::uint32_t kFirstByte = 1000;
constexpr std::uint32_t kSegment = 65483;         // what two ends on the loopback device agree on
constexpr std::uint32_t kScale = 7 | (7U << 16);  // window scales, of sending and of receiving
constexpr int kSendBuffer = 1 << 20;
constexpr std::uint8_t kOptionSegment = 2;  // TCP option kinds (RFC 9293, RFC 7323, RFC 2018)
constexpr std::uint8_t kOptionScale = 3;
constexpr std::uint8_t kOptionSelective = 4;
// Without them the kernel lets nobody take the addresses of a connection that ended less than a minute ago
// (tcp_twsk_unique, net/ipv4/tcp_ipv4.c).
constexpr std::uint8_t kOptionTimestamps = 8;

template <class T>
Result<void> set(int socket, int name, const T& value, const char* what) {
  if (::setsockopt(socket, IPPROTO_TCP, name, &value, sizeof value) == 0) return {};
  if (errno == EPERM)
    return fail(ErrorKind::permission, "TCP repair is not permitted",
                "a connection inside the task is made again only with CAP_NET_ADMIN");
  return fail_errno("setsockopt", what);
}

Result<void> set_sequence(int socket, int queue, std::uint32_t first) {
  RELIVE_TRY(set(socket, TCP_REPAIR_QUEUE, queue, "TCP_REPAIR_QUEUE"));
  return set(socket, TCP_QUEUE_SEQ, first, "TCP_QUEUE_SEQ");
}

Result<UniqueFd> connected(const model::Socket& wanted, const SetOptions& set_options) {
  UniqueFd socket(::socket(wanted.family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!socket) return fail_errno("socket", "TCP");
  // A connection that is made by a handshake grows its buffer then. What the program has set is set afterwards, and
  // else that this was set is forgotten (SO_BUF_LOCK).
  const int room = kSendBuffer;
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &room, sizeof room) != 0)
    return fail_errno("setsockopt", "SO_SNDBUF");
  RELIVE_TRY(set_options(socket.get(), wanted));
  RELIVE_TRY(set(socket.get(), TCP_REPAIR, int{TCP_REPAIR_ON}, "TCP_REPAIR"));
  RELIVE_TRY(set_sequence(socket.get(), TCP_SEND_QUEUE, kFirstByte));
  RELIVE_TRY(set_sequence(socket.get(), TCP_RECV_QUEUE, kFirstByte));
  const auto address = [](const std::vector<std::byte>& bytes) {
    return reinterpret_cast<const sockaddr*>(bytes.data());
  };
  const auto taken = [&](const char* call) {
    if (errno != EADDRINUSE && errno != EADDRNOTAVAIL) return fail_errno(call, model::words(wanted).phrase);
    return fail(ErrorKind::refused,
                fmt::format("the addresses {} -> {} of a connection that was closed since are taken",
                            model::address_text(wanted.local), model::address_text(wanted.peer)));
  };
  if (::bind(socket.get(), address(wanted.local), static_cast<socklen_t>(wanted.local.size())) != 0)
    return taken("bind");
  if (::connect(socket.get(), address(wanted.peer), static_cast<socklen_t>(wanted.peer.size())) != 0)
    return taken("connect");
  const std::array<tcp_repair_opt, 4> agreed{
      {{kOptionSegment, kSegment}, {kOptionSelective, 0}, {kOptionScale, kScale}, {kOptionTimestamps, 0}}};
  RELIVE_TRY(set(socket.get(), TCP_REPAIR_OPTIONS, agreed, "TCP_REPAIR_OPTIONS"));
  return socket;
}

// What the other end had not read, sent anew: so both ends count the same bytes. The loopback device delivers at once.
Result<void> send_unread(int from, int to, const std::vector<std::byte>& bytes) {
  if (bytes.empty()) return {};
  const int on = 1;
  const int off = 0;
  RELIVE_TRY(set(from, TCP_NODELAY, on, "TCP_NODELAY"));
  const ssize_t sent = ::send(from, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  int arrived = 0;
  if (::ioctl(to, FIONREAD, &arrived) != 0) return fail_errno("ioctl", "FIONREAD");
  if (sent != static_cast<ssize_t>(bytes.size()) || static_cast<std::size_t>(arrived) != bytes.size())
    return fail(ErrorKind::refused,
                fmt::format("the {} unread bytes of a connection do not fit into a new one", bytes.size()));
  return set(from, TCP_NODELAY, off, "TCP_NODELAY");
}

}  // namespace

Result<RepairedPair> make_repaired_pair(const model::Socket& one, const model::Socket& other,
                                        const SetOptions& set_options) {
  RepairedPair pair{.first = RELIVE_TRY(connected(one, set_options)),
                    .second = RELIVE_TRY(connected(other, set_options))};
  const int first = pair.first.get();
  const int second = pair.second.get();
  // Leaving repair sends a window probe, by which each learns how much the other one takes.
  for (const int socket : {first, second}) RELIVE_TRY(set(socket, TCP_REPAIR, int{TCP_REPAIR_OFF}, "TCP_REPAIR"));
  RELIVE_TRY(send_unread(second, first, model::bytes_of(one.unread)));
  RELIVE_TRY(send_unread(first, second, model::bytes_of(other.unread)));
  RELIVE_TRY(set_options(first, one));
  RELIVE_TRY(set_options(second, other));
  for (const auto& [end, wanted] : {std::pair{first, &one}, std::pair{second, &other}})
    if ((wanted->shutdown & 2) != 0 && ::shutdown(end, SHUT_WR) != 0) return fail_errno("shutdown", "a new connection");
  return pair;
}

}  // namespace relive::apply
