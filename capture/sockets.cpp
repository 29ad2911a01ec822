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
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "capture/descriptors.h"
#include "capture/fdinfo.h"
#include "capture/survey.h"
#include "capture/unix_names.h"
#include "task/procfs.h"

namespace relive::capture {

namespace {

using model::SocketState;

// Of the kernel's uapi; older C library headers lack them.
constexpr int kBufferLock = 72;  // SO_BUF_LOCK, Linux 5.14
constexpr int kSendBufferLocked = 1;
constexpr int kReceiveBufferLocked = 2;
constexpr int kPassPidfd = 76;                                 // SO_PASSPIDFD, Linux 6.5
constexpr int kPassRights = 83;                                // SO_PASSRIGHTS, Linux 6.16
constexpr int kScmPidfd = 4;                                   // SCM_PIDFD, Linux 6.5
constexpr std::size_t kMostDescriptors = 253;                  // of one message: SCM_MAX_FD, net/scm.h
constexpr std::size_t kMessageBytes = std::size_t{256} << 10;  // to begin with

enum class Of : std::uint8_t { every, unix_domain, internet, ipv6, tcp };  // sockets
struct OptionName {
  int level;
  int name;
  Of of;
};

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
    {SOL_SOCKET, SO_TIMESTAMP, Of::every},
    {SOL_SOCKET, SO_TIMESTAMPNS, Of::every},
    {SOL_SOCKET, SO_PRIORITY, Of::internet},
    {SOL_SOCKET, SO_BINDTODEVICE, Of::internet},
    {IPPROTO_IPV6, IPV6_V6ONLY, Of::ipv6},
    {IPPROTO_IPV6, IPV6_TCLASS, Of::ipv6},
    {IPPROTO_IP, IP_TOS, Of::internet},
    {IPPROTO_IP, IP_FREEBIND, Of::internet},
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

Result<int> integer_option(int socket, int level, int name, const char* what) {
  int value = 0;
  socklen_t size = sizeof value;
  if (::getsockopt(socket, level, name, &value, &size) != 0) return fail_errno("getsockopt", what);
  return value;
}

bool applies(Of of, int family, int type) {
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
      return family != AF_UNIX && type == SOCK_STREAM;
  }
  return false;
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
  pollfd one{.fd = socket, .events = POLLIN | POLLRDHUP, .revents = 0};
  return ::poll(&one, 1, 0) == 1 ? one.revents : short{0};
}

bool hung_up(int socket) { return (polled(socket) & (POLLHUP | POLLRDHUP)) != 0; }

Result<int> bytes_waiting(int socket) {
  int unread = 0;
  if (::ioctl(socket, FIONREAD, &unread) != 0) return fail_errno("ioctl", "FIONREAD");
  return unread;
}

Result<void> read_tcp(int duplicate, model::Socket& socket) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(duplicate, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return fail_errno("getsockopt", "TCP_INFO");
  const bool over = (polled(duplicate) & (POLLHUP | POLLRDHUP)) == (POLLHUP | POLLRDHUP);
  if (info.tcpi_state == TCP_LISTEN) {
    socket.state = SocketState::listening;
    socket.backlog = static_cast<int>(info.tcpi_sacked);  // sk_max_ack_backlog: tcp_get_info()
  } else if (over) {
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
  } else if (connected || diagnosis.peer_inode != 0) {  // a closed peer keeps its name and has no inode
    // A peer that waits to be accepted has no inode either, but nobody has hung up.
    const bool over = diagnosis.peer_inode == 0 && (socket.type == SOCK_DGRAM || (polled(duplicate) & POLLHUP) != 0);
    socket.state = over ? SocketState::hung_up : SocketState::connected;
  } else {
    socket.state = has_address(socket.local, AF_UNIX) ? SocketState::bound : SocketState::fresh;
  }
  socket.peer_inode = diagnosis.peer_inode;
  socket.shutdown = diagnosis.shutdown;
  if (diagnosis.file_inode != 0) socket.file.emplace().inode = diagnosis.file_inode;
  socket.reset = (polled(duplicate) & POLLERR) != 0;
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
  request->udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN | UDIAG_SHOW_VFS;
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
      case UNIX_DIAG_VFS:
        diagnosis.file_inode = static_cast<const unix_diag_vfs*>(mnl_attr_get_payload(attribute))->udiag_vfs_ino;
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

  model::Socket socket;
  socket.inode = inode;
  socket.family = family;
  socket.type = type;
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
  if (type != SOCK_STREAM && has_filter(duplicate)) return unhandled("datagram socket with a filter");
  if (internet && socket.state == SocketState::hung_up)
    socket.unread = RELIVE_TRY(peek_messages(duplicate, family, type, {}, disregard));
  socket.options = read_socket_options(duplicate, family, type);
  if (socket.state == SocketState::connected)  // for bind(2) alone, and fixed by it
    std::erase_if(socket.options, [](const model::SocketOption& option) {
      return option.level == IPPROTO_IPV6 && option.name == IPV6_V6ONLY;
    });
  return model::FileObject(std::move(socket));
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

namespace {

// Peeking goes on where it stopped (SO_PEEK_OFF, socket(7)), for as long as this lives.
class Peeking {
 public:
  static Result<Peeking> at_begin(int socket) {
    Peeking peeking(socket, RELIVE_TRY(integer_option(socket, SOL_SOCKET, SO_PEEK_OFF, "SO_PEEK_OFF")));
    RELIVE_TRY(peeking.move_to(0));
    return peeking;
  }
  Peeking(Peeking&& other) noexcept : socket_(std::exchange(other.socket_, -1)), before_(other.before_) {}
  Peeking& operator=(Peeking&&) = delete;
  ~Peeking() {
    if (socket_ >= 0) (void)move_to(before_);
  }
  Result<void> move_to(int offset) const {
    if (::setsockopt(socket_, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) != 0)
      return fail_errno("setsockopt", "SO_PEEK_OFF");
    return {};
  }

 private:
  Peeking(int socket, int before) : socket_(socket), before_(before) {}
  int socket_;
  int before_;
};

// What came beside a message.
Result<void> read_control(msghdr& header, const Sender& task, const Identify& identify, model::Message& message) {
  std::vector<UniqueFd> files;
  for (cmsghdr* control = CMSG_FIRSTHDR(&header); control != nullptr; control = CMSG_NXTHDR(&header, control)) {
    if (control->cmsg_level != SOL_SOCKET) continue;
    const std::size_t size = control->cmsg_len - CMSG_LEN(0);
    if (control->cmsg_type == SCM_RIGHTS || control->cmsg_type == kScmPidfd) {
      for (std::size_t at = 0; at + sizeof(int) <= size; at += sizeof(int)) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(control) + at, sizeof fd);
        UniqueFd ours(fd);
        if (control->cmsg_type == SCM_RIGHTS) files.push_back(std::move(ours));
      }
    } else if (control->cmsg_type == SCM_CREDENTIALS && size >= sizeof(ucred)) {
      ucred sender{};
      std::memcpy(&sender, CMSG_DATA(control), sizeof sender);
      message.foreign_sender = sender.pid != task.pid || sender.uid != task.uid || sender.gid != task.gid;
    }
  }
  for (UniqueFd& ours : files) message.files.push_back(RELIVE_TRY(identify(std::move(ours))));
  return {};
}

// One message, or nothing where there is no further one. `buffer` grows to its size.
Result<std::optional<model::Message>> peek_one(int duplicate, const Sender& task, const Identify& identify,
                                               std::vector<std::byte>& buffer) {
  sockaddr_storage from{};
  alignas(cmsghdr) std::array<char, 4096> control{};
  static_assert(control.size() > CMSG_SPACE(kMostDescriptors * sizeof(int)) + CMSG_SPACE(sizeof(ucred)) + 512);
  iovec piece{.iov_base = buffer.data(), .iov_len = buffer.size()};
  msghdr header{};
  header.msg_name = &from;
  header.msg_namelen = sizeof from;
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  const ssize_t size = ::recvmsg(duplicate, &header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);
  if (size < 0 && (errno == EAGAIN || errno == ENOTCONN)) return std::nullopt;
  if (size < 0) return fail_errno("recvmsg", "MSG_PEEK");
  model::Message message;
  const bool too_long = static_cast<std::size_t>(size) > buffer.size();
  RELIVE_TRY(read_control(header, task, too_long ? Identify(disregard) : identify, message));
  if (too_long) buffer.resize(static_cast<std::size_t>(size));
  const auto* const name = reinterpret_cast<const std::byte*>(&from);
  message.bytes.assign(buffer.begin(), buffer.begin() + size);
  if (header.msg_namelen > sizeof(sa_family_t))
    message.from.assign(name, name + std::min<std::size_t>(header.msg_namelen, sizeof from));
  return message;
}

// Of TCP: before Linux 6.9 it has no SO_PEEK_OFF, and it has no boundaries.
Result<std::vector<model::Message>> peek_stream(int duplicate) {
  const int unread = RELIVE_TRY(bytes_waiting(duplicate));
  std::vector<std::byte> buffer(static_cast<std::size_t>(unread));
  if (unread == 0) return std::vector<model::Message>{};
  const ssize_t size = ::recv(duplicate, buffer.data(), buffer.size(), MSG_PEEK | MSG_DONTWAIT);
  if (size < 0) return fail_errno("recv", "MSG_PEEK");
  buffer.resize(static_cast<std::size_t>(size));
  return std::vector<model::Message>{{.bytes = std::move(buffer), .from = {}, .foreign_sender = false}};
}

// Memory of which the last byte cannot be written.
class Guarded {
 public:
  explicit Guarded(std::size_t size)
      : whole_((size + 2 * kPage - 2) / kPage * kPage),
        memory_(::mmap(nullptr, whole_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
        begin_(static_cast<std::byte*>(memory_) + whole_ - kPage - (size - 1)) {}
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() {
    if (memory_ != MAP_FAILED) ::munmap(memory_, whole_);
  }
  [[nodiscard]] Result<std::byte*> begin() const {
    if (memory_ == MAP_FAILED) return fail_errno("mmap", "a buffer");
    if (::mprotect(static_cast<std::byte*>(memory_) + whole_ - kPage, kPage, PROT_NONE) != 0)
      return fail_errno("mprotect", "a buffer");
    return begin_;
  }

 private:
  static constexpr std::size_t kPage = 4096;
  std::size_t whole_;
  void* memory_;
  std::byte* begin_;
};

// Looking at a stream goes on behind what was sent before, up to what files travel with: how many bytes were sent
// before? A look into memory of which the last byte cannot be written ends there: what was sent at once is copied whole
// or not at all (unix_stream_read_generic(), net/unix/af_unix.c, Linux 6.18).
Result<std::size_t> bytes_before_files(int duplicate, const Peeking& peeking, std::size_t begin, std::size_t size) {
  if (size <= 1) return std::size_t{0};
  const Guarded memory(size);
  std::byte* const into = RELIVE_TRY(memory.begin());
  RELIVE_TRY(peeking.move_to(static_cast<int>(begin)));
  const ssize_t before = ::recv(duplicate, into, size, MSG_PEEK | MSG_DONTWAIT);
  if (before < 0 && errno != EFAULT) return fail_errno("recv", "MSG_PEEK");
  RELIVE_TRY(peeking.move_to(static_cast<int>(begin + size)));
  return static_cast<std::size_t>(std::max<ssize_t>(before, 0));
}

// Neighbours of a stream that differ in nothing but their bytes are one.
void append(std::vector<model::Message>& messages, int type, model::Message message) {
  const bool same = type == SOCK_STREAM && !messages.empty() && message.files.empty() &&
                    messages.back().files.empty() && messages.back().foreign_sender == message.foreign_sender;
  if (same)
    messages.back().bytes.insert(messages.back().bytes.end(), message.bytes.begin(), message.bytes.end());
  else
    messages.push_back(std::move(message));
}

}  // namespace

Result<std::vector<model::Message>> peek_messages(int duplicate, int family, int type, const Sender& task,
                                                  const Identify& identify) {
  if (family != AF_UNIX && type == SOCK_STREAM) return peek_stream(duplicate);
  std::vector<model::Message> messages;
  const short ready = polled(duplicate);
  if ((ready & POLLIN) == 0) return messages;
  const int waiting = RELIVE_TRY(bytes_waiting(duplicate));
  if (type == SOCK_STREAM && waiting == 0) return messages;
  if (type != SOCK_STREAM && (ready & POLLERR) != 0) {  // receiving would give the error, once
    if (waiting != 0) messages.push_back({.bytes = {}, .from = {}, .unseen = true});
    return messages;
  }
  const Peeking peeking = RELIVE_TRY(Peeking::at_begin(duplicate));
  std::vector<std::byte> buffer(kMessageBytes);
  for (std::size_t seen = 0;;) {
    const std::size_t room = buffer.size();
    auto message = RELIVE_TRY(peek_one(duplicate, task, identify, buffer));
    if (!message) break;
    if (buffer.size() != room) {  // it was longer than the buffer: once more
      RELIVE_TRY(peeking.move_to(static_cast<int>(seen)));
      continue;
    }
    // The end of a stream; of a seqpacket socket it looks like an empty message.
    if (message->bytes.empty() && type != SOCK_DGRAM && hung_up(duplicate)) break;
    seen += message->bytes.size();
    if (type != SOCK_DGRAM) message->from.clear();  // its peer's, always
    if (type == SOCK_STREAM && !message->files.empty()) {
      const std::size_t size = message->bytes.size();
      const auto before =
          static_cast<std::ptrdiff_t>(RELIVE_TRY(bytes_before_files(duplicate, peeking, seen - size, size)));
      model::Message plain = *message;
      plain.files.clear();
      plain.bytes.resize(static_cast<std::size_t>(before));
      if (before != 0) append(messages, type, std::move(plain));
      message->bytes.erase(message->bytes.begin(), message->bytes.begin() + before);
    }
    append(messages, type, std::move(*message));
    if (type == SOCK_STREAM && seen >= static_cast<std::size_t>(waiting)) break;
  }
  return messages;
}

namespace {

Result<Sender> sender_of(task::FrozenTask& task) {
  const std::string status = RELIVE_TRY(task::read_proc(task.pid(), "status"));
  const auto uid = word_after(status, "\nUid:");
  const auto gid = word_after(status, "\nGid:");
  if (!uid || !gid) return fail(ErrorKind::system, "no Uid or Gid in /proc/PID/status");
  return Sender{.pid = task.pid().value,
                .uid = static_cast<uid_t>(number_in(*uid, 10)),
                .gid = static_cast<gid_t>(number_in(*gid, 10))};
}

bool inside(const Survey& survey, std::uint64_t inode) {
  return std::ranges::any_of(survey.table.open_files, [&](const model::OpenFile& other) {
    const auto* const socket = std::get_if<model::Socket>(&other.object);
    return socket != nullptr && socket->inode == inode;
  });
}

bool tells_credentials(const model::Socket& socket) {
  return std::ranges::any_of(socket.options, [](const model::SocketOption& option) {
    return option.level == SOL_SOCKET && option.name == SO_PASSCRED &&
           std::ranges::any_of(option.value, [](std::byte byte) { return byte != std::byte{0}; });
  });
}

// The first table that has one of these sockets: its task is who will send again what is unread in them.
template <class Predicate>
int lowest_table(const Survey& survey, int table, Predicate is_one) {
  if (survey.tables.size() < 2) return table;
  for (std::size_t index = 0; index < survey.first.size(); ++index) {
    const auto* const other = std::get_if<model::Socket>(&survey.table.open_files[index].object);
    if (other != nullptr && is_one(*other)) table = std::min(table, survey.first[index].table);
  }
  return table;
}

}  // namespace

std::string unhandled_messages(const model::Socket& socket) {
  if (std::ranges::any_of(socket.unread, &model::Message::foreign_sender))
    return "holds unread messages that carry the credentials of another process; nobody may send those again";
  if (std::ranges::any_of(socket.unread, &model::Message::unseen) || (socket.reset && socket.type == SOCK_DGRAM))
    return "has an error pending (ECONNRESET), which this release does not put back";
  return {};
}

std::string unhandled_in_flight(const model::Socket& socket, const model::DescriptorTable& table) {
  for (const model::Message& message : socket.unread) {
    for (const std::size_t index : message.files) {
      const model::OpenFile& file = table.open_files[index];
      const bool numbered =
          std::ranges::find(table.descriptors, index, &model::Descriptor::open_file) != table.descriptors.end();
      if (numbered || model::may_be_held(file)) continue;
      return fmt::format(
          "holds an unread message that carries a file which is under no number any more ({}); this "
          "release rolls those back only for regular files, directories and memory devices",
          model::describe(file));
    }
  }
  return {};
}

Result<void> complete_unix_sockets(const Survey& survey) {
  std::map<int, Sender> tasks;  // by table
  FilesInFlight in_flight(survey);
  const Identify identify = [&](UniqueFd ours) { return in_flight.identify(std::move(ours)); };
  for (std::size_t index = 0; index < survey.first.size(); ++index) {
    auto* const socket = std::get_if<model::Socket>(&survey.table.open_files[index].object);
    if (socket == nullptr || socket->family != AF_UNIX) continue;
    if (socket->file) RELIVE_TRY(complete_name(survey, index, *socket));
    if (socket->state == SocketState::listening) continue;
    if (socket->state == SocketState::connected && !inside(survey, socket->peer_inode)) {
      socket->peer_inode = 0;
      if (socket->type != SOCK_DGRAM) socket->shutdown = 0;
      continue;
    }
    if (socket->type != SOCK_DGRAM && socket->state != SocketState::connected && socket->state != SocketState::hung_up)
      continue;
    const int home = lowest_table(survey, survey.first[index].table, [&](const model::Socket& other) {
      return other.inode == socket->peer_inode || other.peer_inode == socket->inode;
    });
    if (!tasks.contains(home)) tasks.emplace(home, RELIVE_TRY(sender_of(survey.visit(home).task())));
    const UniqueFd duplicate = RELIVE_TRY(survey.borrow(survey.first[index]));
    auto unread =
        RELIVE_TRY(with_context(peek_messages(duplicate.get(), AF_UNIX, socket->type, tasks.at(home), identify),
                                fmt::format("descriptor {}", survey.first[index].value)));
    // The table may have grown.
    auto& same = std::get<model::Socket>(survey.table.open_files[index].object);
    same.unread = std::move(unread);
    if (!tells_credentials(same)) continue;
    for (model::Message& message : same.unread) {  // a sender that is known by its name only
      const bool earlier = !message.from.empty() && lowest_table(survey, home, [&](const model::Socket& other) {
                                                      return other.local == message.from;
                                                    }) != home;
      message.foreign_sender = message.foreign_sender || earlier;
    }
  }
  return {};
}

}  // namespace relive::capture
