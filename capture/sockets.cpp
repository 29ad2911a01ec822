#include "capture/sockets.h"

#include <libmnl/libmnl.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
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
#include "capture/sock_diag.h"
#include "capture/survey.h"
#include "capture/unix_names.h"
#include "task/procfs.h"

namespace relive::capture {

namespace {

using model::SocketState;

// Of the kernel's uapi; older C library headers lack them.
constexpr int kPatienceMs = 20;
constexpr int kScmPidfd = 4;                                   // SCM_PIDFD, Linux 6.5
constexpr std::size_t kMostDescriptors = 253;                  // of one message: SCM_MAX_FD, net/scm.h
constexpr std::size_t kMessageBytes = std::size_t{256} << 10;  // to begin with

Result<int> integer_option(int socket, int level, int name, const char* what) {
  int value = 0;
  socklen_t size = sizeof value;
  if (::getsockopt(socket, level, name, &value, &size) != 0) return fail_errno("getsockopt", what);
  return value;
}

using NameCall = int (*)(int, sockaddr*, socklen_t*);

std::vector<std::byte> name_of(int socket, NameCall call) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (call(socket, reinterpret_cast<sockaddr*>(&storage), &size) != 0) return {};
  const auto* const bytes = reinterpret_cast<const std::byte*>(&storage);
  return {bytes, bytes + std::min<std::size_t>(size, sizeof storage)};
}

template <class Address>
Address name_as(const std::vector<std::byte>& name) {
  Address address{};
  std::memcpy(&address, name.data(), std::min(sizeof address, name.size()));
  return address;
}
template <class Address>
std::vector<std::byte> bytes_of(const Address& address) {
  const auto bytes = std::as_bytes(std::span(&address, 1));
  return {bytes.begin(), bytes.end()};
}

bool has_address(const std::vector<std::byte>& local, int family) {
  if (family == AF_UNIX) return local.size() > offsetof(sockaddr_un, sun_path);
  return model::port_of(local) != 0;
}

SocketState state_of_addressed(const model::Socket& socket) {
  if (!socket.peer.empty()) return SocketState::connected;
  if (socket.family == AF_NETLINK || socket.family == AF_PACKET) {
    const bool some = std::ranges::any_of(socket.local.begin() + sizeof(sa_family_t), socket.local.end(),
                                          [](std::byte byte) { return byte != std::byte{0}; });
    return some ? SocketState::bound : SocketState::fresh;
  }
  return has_address(socket.local, socket.family) ? SocketState::bound : SocketState::fresh;
}

// Why a socket of this kind is not handled; empty if it is.
std::string unhandled_socket(int family, int type, int protocol) {
  switch (family) {
    case AF_UNIX:
      return {};
    case AF_INET:
    case AF_INET6:
      if (type == SOCK_STREAM) return protocol == IPPROTO_TCP ? "" : "stream socket other than TCP";
      if (type == SOCK_RAW) return protocol == IPPROTO_IGMP ? "raw IGMP socket" : "";  // it may be the multicast router
      for (const int known : {+IPPROTO_UDP, +IPPROTO_UDPLITE, +IPPROTO_ICMP, +IPPROTO_ICMPV6})
        if (type == SOCK_DGRAM && protocol == known) return {};
      return "internet socket of an unknown kind";
    case AF_NETLINK:
      // Others have state in the kernel that goes with the socket (nfnetlink queues, the audit daemon).
      for (const int known : {NETLINK_ROUTE, NETLINK_USERSOCK, NETLINK_SOCK_DIAG, NETLINK_XFRM, NETLINK_SELINUX,
                              NETLINK_KOBJECT_UEVENT, NETLINK_GENERIC})
        if (protocol == known) return {};
      return fmt::format("netlink socket (of protocol {})", protocol);
    case AF_PACKET:
      return {};
    case AF_VSOCK:
      return "vsock socket";
    default:
      return "socket of an unknown family";
  }
}

Result<std::vector<model::Membership>> netlink_groups(int socket) {
  std::array<std::uint32_t, 64> bits{};
  socklen_t size = sizeof bits;
  if (::getsockopt(socket, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, bits.data(), &size) != 0)
    return fail_errno("getsockopt", "NETLINK_LIST_MEMBERSHIPS");
  std::vector<model::Membership> groups;
  const int count = static_cast<int>(std::min<std::size_t>(size, sizeof bits) * 8);
  for (int group = 1; group <= count; ++group) {  // bit 0 is group 1: netlink(7)
    const auto bit = static_cast<std::size_t>(group - 1);
    if ((bits[bit / 32] >> (bit % 32) & 1U) != 0) groups.push_back({.level = SOL_NETLINK, .group = bytes_of(group)});
  }
  return groups;
}

// What was sent whole leaves the socket at once, or when the device has it.
bool holds_half_a_datagram(int socket) {
  for (int waited = 0; waited < kPatienceMs; ++waited) {
    int under_way = 0;
    if (::ioctl(socket, SIOCOUTQ, &under_way) != 0 || under_way == 0) return false;
    ::poll(nullptr, 0, 1);
  }
  return true;
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

std::vector<std::byte> own_address(int socket) {
  std::vector<std::byte> name =
      name_of(socket, [](int fd, sockaddr* address, socklen_t* size) { return ::getsockname(fd, address, size); });
  switch (name_as<sockaddr>(name).sa_family) {
    case AF_NETLINK: {  // groups are memberships
      auto address = name_as<sockaddr_nl>(name);
      address.nl_groups = 0;
      return bytes_of(address);
    }
    case AF_PACKET: {  // the rest is the device's
      const auto told = name_as<sockaddr_ll>(name);
      sockaddr_ll address{};
      address.sll_family = AF_PACKET;
      address.sll_protocol = told.sll_protocol;
      address.sll_ifindex = told.sll_ifindex;
      return bytes_of(address);
    }
    default:
      return name;
  }
}

std::vector<std::byte> peer_address(int socket) {
  std::vector<std::byte> name =
      name_of(socket, [](int fd, sockaddr* address, socklen_t* size) { return ::getpeername(fd, address, size); });
  const auto netlink = name_as<sockaddr_nl>(name);
  // The kernel itself, to which a netlink socket sends anyway.
  if (netlink.nl_family == AF_NETLINK && netlink.nl_pid == 0 && netlink.nl_groups == 0) return {};
  return name;
}

Result<model::FileObject> read_socket(int duplicate, std::uint64_t inode, UnixDiagnoser& diagnoser) {
  const int family = RELIVE_TRY(integer_option(duplicate, SOL_SOCKET, SO_DOMAIN, "SO_DOMAIN"));
  const int type = RELIVE_TRY(integer_option(duplicate, SOL_SOCKET, SO_TYPE, "SO_TYPE"));
  const int protocol = RELIVE_TRY(integer_option(duplicate, SOL_SOCKET, SO_PROTOCOL, "SO_PROTOCOL"));
  const auto unhandled = [](std::string what) { return model::FileObject(model::UnhandledFile{std::move(what)}); };
  const bool internet = family == AF_INET || family == AF_INET6;
  if (std::string what = unhandled_socket(family, type, protocol); !what.empty()) return unhandled(what);

  model::Socket socket;
  socket.inode = inode;
  socket.family = family;
  socket.type = type;
  socket.protocol = protocol;
  socket.local = own_address(duplicate);
  socket.peer = peer_address(duplicate);
  if (model::is_addressed(socket)) {
    if (type == SOCK_DGRAM && internet && holds_half_a_datagram(duplicate))
      return unhandled("half-written UDP socket (MSG_MORE has begun a datagram)");
    socket.state = state_of_addressed(socket);
    if (family == AF_NETLINK) socket.memberships = RELIVE_TRY(netlink_groups(duplicate));
    if (family == AF_PACKET) {
      const auto told = RELIVE_TRY(packet_socket(inode));
      if (!told) return unhandled("packet socket of another network namespace");
      if (told->ring) return unhandled("packet socket with a ring (PACKET_RX_RING, PACKET_TX_RING)");
      if (RELIVE_TRY(integer_option(duplicate, SOL_PACKET, PACKET_FANOUT, "PACKET_FANOUT")) != 0)
        return unhandled("packet socket of a group (PACKET_FANOUT)");
      socket.memberships = told->memberships;
    }
  } else if (internet) {
    RELIVE_TRY(read_tcp(duplicate, socket));
  } else {
    const UnixDiagnosis diagnosis = RELIVE_TRY(diagnoser.ask(inode));
    if (!diagnosis.found) return unhandled("unix socket of another network namespace");
    RELIVE_TRY(read_unix(duplicate, diagnosis, socket));
  }
  const auto filter = read_filter(duplicate);
  if (!filter && filter.error().kind == ErrorKind::permission) return unhandled("socket with a BPF program");
  if (filter && !filter->empty() && type == SOCK_STREAM && internet) return unhandled("TCP socket with a filter");
  if (filter && !filter->empty() && type != SOCK_STREAM && family == AF_UNIX)
    return unhandled("datagram socket with a filter");
  if (internet && socket.state == SocketState::hung_up)
    socket.unread = RELIVE_TRY(peek_messages(duplicate, family, type, {}, disregard));
  socket.options = read_socket_options(duplicate, family, type);
  if (socket.state == SocketState::connected && type == SOCK_STREAM)  // for bind(2) alone, and fixed by it
    std::erase_if(socket.options, [](const model::SocketOption& option) {
      return option.level == IPPROTO_IPV6 && option.name == IPV6_V6ONLY;
    });
  return model::FileObject(std::move(socket));
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
  auto peeking = Peeking::at_begin(duplicate);
  if (!peeking && family != AF_UNIX) {  // no SO_PEEK_OFF: only the first one could be seen
    messages.push_back({.bytes = {}, .from = {}, .unseen = true});
    return messages;
  }
  if (!peeking) return std::unexpected(std::move(peeking).error());
  const int waiting = RELIVE_TRY(bytes_waiting(duplicate));
  if (type == SOCK_STREAM && waiting == 0) return messages;
  if (type != SOCK_STREAM && (ready & POLLERR) != 0) {  // receiving would give the error, once
    if (waiting != 0) messages.push_back({.bytes = {}, .from = {}, .unseen = true});
    return messages;
  }
  std::vector<std::byte> buffer(kMessageBytes);
  for (std::size_t seen = 0;;) {
    const std::size_t room = buffer.size();
    auto message = RELIVE_TRY(peek_one(duplicate, task, identify, buffer));
    if (!message) break;
    if (buffer.size() != room) {  // it was longer than the buffer: once more
      RELIVE_TRY(peeking->move_to(static_cast<int>(seen)));
      continue;
    }
    // The end of a stream; of a seqpacket socket it looks like an empty message.
    if (message->bytes.empty() && type != SOCK_DGRAM && hung_up(duplicate)) break;
    seen += message->bytes.size();
    if (type != SOCK_DGRAM) message->from.clear();  // its peer's, always
    if (type == SOCK_STREAM && !message->files.empty()) {
      const std::size_t size = message->bytes.size();
      const auto before =
          static_cast<std::ptrdiff_t>(RELIVE_TRY(bytes_before_files(duplicate, *peeking, seen - size, size)));
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
  const bool datagrams = socket.type == SOCK_DGRAM || model::is_addressed(socket);
  const bool unseen = std::ranges::any_of(socket.unread, &model::Message::unseen);
  if (unseen && !socket.reset) return "holds unread messages, which nobody can look at without taking them";
  if (unseen || (socket.reset && datagrams)) return "has an error pending, which this release does not put back";
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
    if (!tasks.contains(home)) tasks.emplace(home, RELIVE_TRY(sender_of(*survey.at(home).task)));
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
