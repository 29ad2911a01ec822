// Sockets that send to addresses (UDP and its like): what is unread, which groups are joined, what was shut down.
#include <poll.h>
#include <sys/socket.h>

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "capture/memberships.h"
#include "capture/sock_diag.h"
#include "capture/sockets.h"
#include "capture/survey.h"

namespace relive::capture {

namespace {

// Without sock_diag only that nothing more can be received is seen.
int shutdown_seen(short ready) { return (ready & POLLHUP) != 0 ? 3 : (ready & POLLRDHUP) != 0 ? 1 : 0; }

}  // namespace

Result<void> complete_addressed_sockets(const Survey& survey) {
  std::optional<std::vector<model::Membership>> groups;
  std::optional<std::vector<DatagramSocket>> known;
  for (std::size_t index = 0; index < survey.table.open_files.size(); ++index) {
    auto* const socket = std::get_if<model::Socket>(&survey.table.open_files[index].object);
    if (socket == nullptr || !model::is_addressed(*socket)) continue;
    if (!groups) groups = RELIVE_TRY(joined_groups(survey.visit.task().pid()));
    if (!known) known = RELIVE_TRY(datagram_sockets());
    const UniqueFd duplicate = RELIVE_TRY(survey.visit.task().borrow(survey.first[index]));
    pollfd one{.fd = duplicate.get(), .events = POLLIN | POLLRDHUP, .revents = 0};
    if (::poll(&one, 1, 0) < 0) return fail_errno("poll", "socket");
    socket->reset = (one.revents & POLLERR) != 0;
    const auto found = std::ranges::find(*known, socket->inode, &DatagramSocket::inode);
    socket->shutdown = found == known->end() ? shutdown_seen(one.revents) : found->shutdown;
    const std::string name = fmt::format("descriptor {}", survey.first[index].value);
    socket->memberships = RELIVE_TRY(with_context(memberships_of(duplicate.get(), socket->family, *groups), name));
    socket->unread = RELIVE_TRY(with_context(peek_messages(duplicate.get(), socket->family, socket->type, {}), name));
  }
  return {};
}

}  // namespace relive::capture
