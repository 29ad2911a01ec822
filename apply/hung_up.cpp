#include "apply/hung_up.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace relive::apply {

namespace {

constexpr int kPatienceMs = 1000;  // the loopback device answers at once

struct Pair {
  UniqueFd kept;
  UniqueFd peer;
};

Result<Pair> make_tcp_pair(int family) {
  const UniqueFd listener(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  Pair pair;
  pair.kept.reset(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!listener || !pair.kept) return fail_errno("socket", "TCP");
  sockaddr_storage storage{};
  auto* const address = reinterpret_cast<sockaddr*>(&storage);
  socklen_t size = 0;
  if (family == AF_INET) {
    auto* const in = reinterpret_cast<sockaddr_in*>(&storage);
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    size = sizeof *in;
  } else {
    auto* const in = reinterpret_cast<sockaddr_in6*>(&storage);
    in->sin6_family = AF_INET6;
    in->sin6_addr = in6addr_loopback;
    size = sizeof *in;
  }
  if (::bind(listener.get(), address, size) != 0) return fail_errno("bind", "loopback");
  if (::listen(listener.get(), 1) != 0) return fail_errno("listen", "loopback");
  if (::getsockname(listener.get(), address, &size) != 0) return fail_errno("getsockname", "loopback");
  if (::connect(pair.kept.get(), address, size) != 0) return fail_errno("connect", "loopback");
  pair.peer.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!pair.peer) return fail_errno("accept", "loopback");
  return pair;
}

Result<Pair> make_unix_pair(int type) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends.data()) != 0) return fail_errno("socketpair", "");
  Pair pair;
  pair.kept.reset(ends[0]);
  pair.peer.reset(ends[1]);
  return pair;
}

Result<UniqueFd> hang_up(Pair pair, std::span<const std::byte> unread) {
  if (!unread.empty()) {
    const ssize_t sent = ::send(pair.peer.get(), unread.data(), unread.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) return fail_errno("send", "unread bytes");
    if (static_cast<std::size_t>(sent) != unread.size()) {
      return fail(ErrorKind::refused, "the unread bytes of an ended connection do not fit into a new socket");
    }
  }
  pair.peer.reset();
  // Our side as well: so the socket is what a program finds behind a connection that is over, and stays so.
  if (::shutdown(pair.kept.get(), SHUT_WR) != 0 && errno != ENOTCONN) return fail_errno("shutdown", "socket");
  pollfd one{.fd = pair.kept.get(), .events = POLLRDHUP, .revents = 0};
  while (::poll(&one, 1, kPatienceMs) < 0 && errno == EINTR) {
  }
  return std::move(pair.kept);
}

}  // namespace

Result<UniqueFd> make_hung_up_socket(int family, int type, std::span<const std::byte> unread) {
  if (family != AF_UNIX) {
    if (auto pair = make_tcp_pair(family)) {
      if (auto socket = hang_up(std::move(*pair), unread)) return socket;
    }
  }
  return hang_up(RELIVE_TRY(make_unix_pair(type)), unread);
}

}  // namespace relive::apply
