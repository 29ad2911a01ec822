#include "capture/sockets.h"

#include <libmnl/libmnl.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "capture/descriptors.h"
#include "capture/survey.h"

namespace relive::capture {

namespace {

using model::SocketState;

// Of the kernel's uapi; older C library headers lack them.
constexpr int kBufferLock = 72;  // SO_BUF_LOCK, Linux 5.14
constexpr int kSendBufferLocked = 1;
constexpr int kReceiveBufferLocked = 2;

struct OptionName {
  int level;
  int name;
  bool tcp_only;
  bool ipv6_only;
};

constexpr OptionName kOptions[] = {
    {SOL_SOCKET, SO_REUSEADDR, false, false},     {SOL_SOCKET, SO_REUSEPORT, true, false},
    {SOL_SOCKET, SO_KEEPALIVE, false, false},     {SOL_SOCKET, SO_OOBINLINE, false, false},
    {SOL_SOCKET, SO_LINGER, false, false},        {SOL_SOCKET, SO_RCVLOWAT, false, false},
    {SOL_SOCKET, SO_RCVTIMEO, false, false},      {SOL_SOCKET, SO_SNDTIMEO, false, false},
    {SOL_SOCKET, SO_PASSCRED, false, false},      {SOL_SOCKET, SO_PRIORITY, true, false},
    {SOL_SOCKET, SO_BINDTODEVICE, true, false},   {IPPROTO_IPV6, IPV6_V6ONLY, true, true},
    {IPPROTO_IPV6, IPV6_TCLASS, true, true},      {IPPROTO_IP, IP_TOS, true, false},
    {IPPROTO_IP, IP_FREEBIND, true, false},       {IPPROTO_TCP, TCP_NODELAY, true, false},
    {IPPROTO_TCP, TCP_CORK, true, false},         {IPPROTO_TCP, TCP_KEEPIDLE, true, false},
    {IPPROTO_TCP, TCP_KEEPINTVL, true, false},    {IPPROTO_TCP, TCP_KEEPCNT, true, false},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, true, false}, {IPPROTO_TCP, TCP_SYNCNT, true, false},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, true, false}, {IPPROTO_TCP, TCP_FASTOPEN, true, false},
};

Result<int> integer_option(int socket, int level, int name, const char* what) {
  int value = 0;
  socklen_t size = sizeof value;
  if (::getsockopt(socket, level, name, &value, &size) != 0) return fail_errno("getsockopt", what);
  return value;
}

using NameCall = int (*)(int, sockaddr*, socklen_t*);

// The address, or nothing where there is none (ENOTCONN).
std::vector<std::byte> address_of(int socket, NameCall call) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (call(socket, reinterpret_cast<sockaddr*>(&storage), &size) != 0) return {};
  const auto* const bytes = reinterpret_cast<const std::byte*>(&storage);
  return {bytes, bytes + std::min<std::size_t>(size, sizeof storage)};
}

bool has_address(const std::vector<std::byte>& local, int family) {
  if (family == AF_UNIX) return local.size() > offsetof(sockaddr_un, sun_path);
  in_port_t port = 0;  // at the same place in sockaddr_in and sockaddr_in6
  if (local.size() >= sizeof(sockaddr_in))
    std::memcpy(&port, local.data() + offsetof(sockaddr_in, sin_port), sizeof port);
  return port != 0;
}

short polled(int socket) {
  pollfd one{.fd = socket, .events = POLLRDHUP, .revents = 0};
  return ::poll(&one, 1, 0) == 1 ? one.revents : short{0};
}

Result<void> read_tcp(int duplicate, model::Socket& socket) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(duplicate, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return fail_errno("getsockopt", "TCP_INFO");
  const bool hung_up = (polled(duplicate) & (POLLHUP | POLLRDHUP)) == (POLLHUP | POLLRDHUP);
  if (info.tcpi_state == TCP_LISTEN) {
    socket.state = SocketState::listening;
    socket.backlog = static_cast<int>(info.tcpi_sacked);  // sk_max_ack_backlog: tcp_get_info()
  } else if (hung_up) {
    socket.state = SocketState::hung_up;
  } else if (info.tcpi_state == TCP_CLOSE) {
    socket.state = has_address(socket.local, socket.family) ? SocketState::bound : SocketState::fresh;
  } else {
    socket.state = SocketState::connected;
  }
  return {};
}

Result<void> read_unix(int duplicate, const UnixDiagnosis& diagnosis, model::Socket& socket) {
  const bool listening = RELIVE_TRY(integer_option(duplicate, SOL_SOCKET, SO_ACCEPTCONN, "SO_ACCEPTCONN")) != 0;
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  const bool connected = ::getpeername(duplicate, reinterpret_cast<sockaddr*>(&peer), &size) == 0;
  if (listening) {
    socket.state = SocketState::listening;
    socket.backlog = static_cast<int>(diagnosis.backlog);
  } else if (connected || diagnosis.peer_inode != 0) {
    socket.state = diagnosis.peer_inode == 0 ? SocketState::hung_up : SocketState::connected;
  } else {
    socket.state = has_address(socket.local, AF_UNIX) ? SocketState::bound : SocketState::fresh;
  }
  socket.peer_inode = diagnosis.peer_inode;
  socket.shutdown = diagnosis.shutdown;
  return {};
}

bool has_filter(int duplicate) {
  socklen_t size = 0;  // in: 0 asks how many instructions there are; out: that many
  return ::getsockopt(duplicate, SOL_SOCKET, SO_GET_FILTER, nullptr, &size) == 0 && size > 0;
}

}  // namespace

Result<UnixDiagnosis> UnixDiagnoser::ask(std::uint64_t inode) {
  if (!netlink_) {
    netlink_.reset(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
    if (!netlink_) return fail_errno("socket", "NETLINK_SOCK_DIAG");
  }
  std::array<char, 4096> buffer{};
  nlmsghdr* const header = mnl_nlmsg_put_header(buffer.data());
  header->nlmsg_type = SOCK_DIAG_BY_FAMILY;
  header->nlmsg_flags = NLM_F_REQUEST;
  auto* const request = static_cast<unix_diag_req*>(mnl_nlmsg_put_extra_header(header, sizeof(unix_diag_req)));
  request->sdiag_family = AF_UNIX;
  request->udiag_states = ~0U;
  request->udiag_ino = static_cast<std::uint32_t>(inode);
  request->udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN;
  request->udiag_cookie[0] = request->udiag_cookie[1] = ~0U;  // any
  if (::send(netlink_.get(), header, header->nlmsg_len, 0) < 0) return fail_errno("send", "sock_diag request");
  const ssize_t size = ::recv(netlink_.get(), buffer.data(), buffer.size(), 0);
  if (size < 0) return fail_errno("recv", "sock_diag answer");
  if (!mnl_nlmsg_ok(header, static_cast<int>(size))) return fail(ErrorKind::system, "sock_diag answer is broken");
  if (header->nlmsg_type == NLMSG_ERROR) {
    const auto* const error = static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(header));
    if (error->error == -ENOENT) {
      // No module unix_diag answers ENOENT for every socket; a socket of another namespace is not found either.
      return UnixDiagnosis{};
    }
    return fail_errno("sock_diag", "unix socket", -error->error);
  }
  UnixDiagnosis diagnosis{.found = true};
  const auto* const end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(header));
  const auto* attribute = static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(header, sizeof(unix_diag_msg)));
  for (; mnl_attr_ok(attribute, static_cast<int>(end - reinterpret_cast<const char*>(attribute)));
       attribute = mnl_attr_next(attribute)) {
    switch (mnl_attr_get_type(attribute)) {
      case UNIX_DIAG_PEER:
        diagnosis.peer_inode = mnl_attr_get_u32(attribute);
        break;
      case UNIX_DIAG_SHUTDOWN:
        diagnosis.shutdown = mnl_attr_get_u8(attribute);
        break;
      case UNIX_DIAG_RQLEN:
        diagnosis.backlog = static_cast<const unix_diag_rqlen*>(mnl_attr_get_payload(attribute))->udiag_wqueue;
        break;
      default:
        break;
    }
  }
  return diagnosis;
}

Result<model::FileObject> read_socket(int duplicate, std::uint64_t inode, UnixDiagnoser& diagnoser) {
  const int family = RELIVE_TRY(integer_option(duplicate, SOL_SOCKET, SO_DOMAIN, "SO_DOMAIN"));
  const int type = RELIVE_TRY(integer_option(duplicate, SOL_SOCKET, SO_TYPE, "SO_TYPE"));
  const int protocol = RELIVE_TRY(integer_option(duplicate, SOL_SOCKET, SO_PROTOCOL, "SO_PROTOCOL"));
  const auto unhandled = [](const char* what) { return model::FileObject(model::UnhandledFile{what}); };
  const bool internet = family == AF_INET || family == AF_INET6;
  if (family == AF_NETLINK) return unhandled("netlink socket");
  if (family == AF_PACKET) return unhandled("packet socket");
  if (family == AF_VSOCK) return unhandled("vsock socket");
  if (!internet && family != AF_UNIX) return unhandled("socket of an unknown family");
  if (internet && type == SOCK_DGRAM && protocol == IPPROTO_UDP) return unhandled("UDP socket");
  if (internet && (type != SOCK_STREAM || protocol != IPPROTO_TCP)) return unhandled("non-TCP socket");
  if (family == AF_UNIX && type == SOCK_DGRAM) return unhandled("unix datagram socket");
  if (family == AF_UNIX && type != SOCK_STREAM) return unhandled("unix seqpacket socket");

  model::Socket socket;
  socket.inode = inode;
  socket.family = family;
  socket.protocol = protocol;
  socket.local = address_of(
      duplicate, [](int fd, sockaddr* address, socklen_t* size) { return ::getsockname(fd, address, size); });
  socket.peer = address_of(duplicate,
                           [](int fd, sockaddr* address, socklen_t* size) { return ::getpeername(fd, address, size); });
  if (internet) {
    RELIVE_TRY(read_tcp(duplicate, socket));
  } else {
    const UnixDiagnosis diagnosis = RELIVE_TRY(diagnoser.ask(inode));
    if (!diagnosis.found) return unhandled("unix socket of another network namespace");
    RELIVE_TRY(read_unix(duplicate, diagnosis, socket));
  }
  if (socket.state == SocketState::listening && has_filter(duplicate))
    return unhandled("listening socket with a filter");
  if (socket.state == SocketState::hung_up) socket.received = RELIVE_TRY(peek_received(duplicate));
  socket.options = read_socket_options(duplicate, family);
  if (socket.state == SocketState::connected)  // for bind(2) alone, and fixed by it
    std::erase_if(socket.options, [](const model::SocketOption& option) {
      return option.level == IPPROTO_IPV6 && option.name == IPV6_V6ONLY;
    });
  return model::FileObject(std::move(socket));
}

std::vector<model::SocketOption> read_socket_options(int socket, int family) {
  std::vector<model::SocketOption> options;
  std::array<std::byte, 64> value{};
  for (const OptionName& option : kOptions) {
    if ((option.tcp_only && family == AF_UNIX) || (option.ipv6_only && family != AF_INET6)) continue;
    socklen_t size = value.size();
    if (::getsockopt(socket, option.level, option.name, value.data(), &size) != 0) continue;
    options.push_back({option.level, option.name, {value.begin(), value.begin() + size}});
  }
  // The kernel sizes the buffers as it likes unless the program has set them; it doubles what it is given (socket(7)).
  const int locked = integer_option(socket, SOL_SOCKET, kBufferLock, "SO_BUF_LOCK").value_or(0);
  const auto add = [&](int name, int number) {
    const auto bytes = std::as_bytes(std::span(&number, 1));
    options.push_back({SOL_SOCKET, name, {bytes.begin(), bytes.end()}});
  };
  if ((locked & kSendBufferLocked) != 0)
    add(SO_SNDBUF, integer_option(socket, SOL_SOCKET, SO_SNDBUF, "SO_SNDBUF").value_or(0) / 2);
  if ((locked & kReceiveBufferLocked) != 0)
    add(SO_RCVBUF, integer_option(socket, SOL_SOCKET, SO_RCVBUF, "SO_RCVBUF").value_or(0) / 2);
  add(kBufferLock, locked);
  return options;
}

Result<std::vector<std::byte>> peek_received(int duplicate) {
  int unread = 0;
  if (::ioctl(duplicate, FIONREAD, &unread) != 0) return fail_errno("ioctl", "FIONREAD");
  std::vector<std::byte> bytes(static_cast<std::size_t>(unread));
  if (unread == 0) return bytes;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(253 * sizeof(int)) + CMSG_SPACE(sizeof(ucred))>
      control{};  // 253: SCM_MAX_FD
  iovec piece{.iov_base = bytes.data(), .iov_len = bytes.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t size = ::recvmsg(duplicate, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (size < 0) return fail_errno("recvmsg", "MSG_PEEK");
  bool descriptors = false;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    descriptors = true;
    for (std::size_t at = 0; at + sizeof(int) <= header->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + at, sizeof fd);
      UniqueFd(fd).reset();
    }
  }
  if (descriptors || size < unread) {
    return fail(ErrorKind::refused, "a unix socket holds unread messages that carry descriptors or credentials",
                "let the program receive them first");
  }
  return bytes;
}

Result<void> complete_unix_sockets(const Survey& survey) {
  for (std::size_t index = 0; index < survey.table.open_files.size(); ++index) {
    auto* const socket = std::get_if<model::Socket>(&survey.table.open_files[index].object);
    if (socket == nullptr || socket->peer_inode == 0) continue;
    const bool inside = std::ranges::any_of(survey.table.open_files, [&](const model::OpenFile& other) {
      const auto* const peer = std::get_if<model::Socket>(&other.object);
      return peer != nullptr && peer->inode == socket->peer_inode;
    });
    if (!inside) {
      socket->peer_inode = 0;
      socket->shutdown = 0;
      continue;
    }
    const UniqueFd duplicate = RELIVE_TRY(survey.visit.task().borrow(survey.first[index]));
    socket->received = RELIVE_TRY(
        with_context(peek_received(duplicate.get()), fmt::format("descriptor {}", survey.first[index].value)));
  }
  return {};
}

}  // namespace relive::capture
