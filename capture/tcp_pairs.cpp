// TCP connections from the task to itself: both ends are known, so what each has not read yet can go back.
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <map>

#include "capture/sockets.h"
#include "capture/survey.h"

namespace relive::capture {

namespace {

using model::Socket;

constexpr int kEstablished = 1;   // TCP_ESTABLISHED
constexpr int kEnds = 4;          // TCP_FIN_WAIT1
constexpr int kHasEnded = 5;      // TCP_FIN_WAIT2: it has shut down sending, and the other end knows
constexpr int kPeerHasEnded = 8;  // TCP_CLOSE_WAIT
constexpr int kPatienceMs = 60;   // the kernel acknowledges after 40 ms at most (TCP_DELACK_MIN, TCP_ATO_MIN)

Result<tcp_info> info_of(int socket) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return fail_errno("getsockopt", "TCP_INFO");
  return info;
}

// Is everything delivered that `from` has sent? Unread bytes need not be acknowledged yet, so the counts of both ends
// are compared first (tcp_info: Linux 4.19). A connection made by TCP repair counts otherwise: there the
// acknowledgement is waited for.
Result<bool> has_settled(int from, int to) {
  tcp_info sender = RELIVE_TRY(info_of(from));
  for (int waited = 0; sender.tcpi_state == kEnds && waited < kPatienceMs; ++waited) {
    ::poll(nullptr, 0, 1);
    sender = RELIVE_TRY(info_of(from));
  }
  const tcp_info receiver = RELIVE_TRY(info_of(to));
  if (sender.tcpi_state == kHasEnded) return true;  // whatever it sent is acknowledged
  if (sender.tcpi_state != kEstablished && sender.tcpi_state != kPeerHasEnded) return false;
  if (sender.tcpi_notsent_bytes == 0 &&
      sender.tcpi_bytes_sent - sender.tcpi_bytes_retrans == receiver.tcpi_bytes_received)
    return true;
  for (int waited = 0;; ++waited) {
    int under_way = 0;
    if (::ioctl(from, SIOCOUTQ, &under_way) != 0) return fail_errno("ioctl", "SIOCOUTQ");
    if (under_way == 0) return true;
    if (waited == kPatienceMs) return false;
    ::poll(nullptr, 0, 1);
  }
}

Result<int> shutdown_of(int socket) {
  const int state = RELIVE_TRY(info_of(socket)).tcpi_state;
  return state == kHasEnded ? 2 : state == kPeerHasEnded ? 1 : 0;
}

}  // namespace

Result<void> complete_tcp_pairs(const Survey& survey) {
  std::map<std::pair<std::vector<std::byte>, std::vector<std::byte>>, std::size_t> ends;
  const auto socket_at = [&](std::size_t index) { return std::get_if<Socket>(&survey.table.open_files[index].object); };
  for (std::size_t index = 0; index < survey.table.open_files.size(); ++index) {
    auto* const socket = socket_at(index);
    if (socket == nullptr || socket->type != SOCK_STREAM || socket->family == AF_UNIX ||
        socket->state != model::SocketState::connected)
      continue;
    const auto other = ends.find({socket->peer, socket->local});
    if (other == ends.end()) {
      ends.emplace(std::pair{socket->local, socket->peer}, index);
      continue;
    }
    auto* const peer = socket_at(other->second);
    const UniqueFd one = RELIVE_TRY(survey.borrow(survey.first[index]));
    const UniqueFd two = RELIVE_TRY(survey.borrow(survey.first[other->second]));
    if (!RELIVE_TRY(has_settled(one.get(), two.get())) || !RELIVE_TRY(has_settled(two.get(), one.get()))) continue;
    socket->peer_inode = peer->inode;
    peer->peer_inode = socket->inode;
    socket->shutdown = RELIVE_TRY(shutdown_of(one.get()));
    peer->shutdown = RELIVE_TRY(shutdown_of(two.get()));
    socket->unread = RELIVE_TRY(peek_messages(one.get(), socket->family, socket->type, {}, disregard));
    peer->unread = RELIVE_TRY(peek_messages(two.get(), peer->family, peer->type, {}, disregard));
  }
  return {};
}

}  // namespace relive::capture
