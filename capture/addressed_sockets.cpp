// Sockets that send to addresses (UDP and its like): what is unread, which groups are joined, what was shut down.
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "capture/memberships.h"
#include "capture/sock_diag.h"
#include "capture/sockets.h"
#include "capture/survey.h"
#include "task/procfs.h"

namespace relive::capture {

namespace {

// Without sock_diag only that nothing more can be received is seen.
int shutdown_seen(short ready) { return (ready & POLLHUP) != 0 ? 3 : (ready & POLLRDHUP) != 0 ? 1 : 0; }

// Of a raw or ping socket.
Result<void> find_peer(model::Pid pid, model::Socket& socket) {
  const bool raw = socket.type == SOCK_RAW;
  if (!raw && socket.protocol != IPPROTO_ICMP && socket.protocol != IPPROTO_ICMPV6) return {};
  const bool six = socket.family == AF_INET6;
  const auto* const file = raw ? (six ? "net/raw6" : "net/raw") : (six ? "net/icmp6" : "net/icmp");
  const auto connected = parse_connected_raw(RELIVE_TRY(task::read_proc(pid, file)));
  const auto there = std::ranges::find(connected, socket.inode, &RawSocket::inode);
  if (there == connected.end()) return {};
  socket.peer = there->peer;
  socket.state = model::SocketState::connected;
  return {};
}

}  // namespace

Result<void> complete_addressed_sockets(const Survey& survey) {
  std::map<int, std::vector<model::Membership>> groups;  // by table: of its task's network namespace
  std::optional<std::vector<DatagramSocket>> known;
  for (std::size_t index = 0; index < survey.table.open_files.size(); ++index) {
    auto* const socket = std::get_if<model::Socket>(&survey.table.open_files[index].object);
    if (socket == nullptr || !model::is_addressed(*socket)) continue;
    const bool internet = socket->family == AF_INET || socket->family == AF_INET6;
    const model::RemoteFd first = survey.first[index];
    const model::Pid pid = survey.at(first.table).task->pid();
    if (internet && !groups.contains(first.table)) groups.emplace(first.table, RELIVE_TRY(joined_groups(pid)));
    if (internet && socket->peer.empty()) RELIVE_TRY(find_peer(pid, *socket));
    if (!known) known = RELIVE_TRY(datagram_sockets());
    const UniqueFd duplicate = RELIVE_TRY(survey.borrow(first));
    pollfd one{.fd = duplicate.get(), .events = POLLIN | POLLRDHUP, .revents = 0};
    if (::poll(&one, 1, 0) < 0) return fail_errno("poll", "socket");
    socket->reset = (one.revents & POLLERR) != 0;
    const auto found = std::ranges::find(*known, socket->inode, &DatagramSocket::inode);
    socket->shutdown = found == known->end() ? shutdown_seen(one.revents) : found->shutdown;
    const std::string name = fmt::format("descriptor {}", first.value);
    if (internet)
      socket->memberships =
          RELIVE_TRY(with_context(memberships_of(duplicate.get(), socket->family, groups.at(first.table)), name));
    socket->unread =
        RELIVE_TRY(with_context(peek_messages(duplicate.get(), socket->family, socket->type, {}, disregard), name));
  }
  return {};
}

}  // namespace relive::capture
