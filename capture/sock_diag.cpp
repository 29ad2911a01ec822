#include "capture/sock_diag.h"

#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <functional>
#include <span>

#include "base/unique_fd.h"

namespace relive::capture {

namespace {

using OnMessage = std::function<void(const nlmsghdr&)>;

// Asks for all sockets of a kind; calls `on_message` with each answer.
template <class Request>
Result<void> dump(const Request& request, const OnMessage& on_message) {
  const UniqueFd netlink(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!netlink) return fail_errno("socket", "NETLINK_SOCK_DIAG");
  alignas(nlmsghdr) std::array<char, 256> question{};
  nlmsghdr* const header = mnl_nlmsg_put_header(question.data());
  header->nlmsg_type = SOCK_DIAG_BY_FAMILY;
  header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  *static_cast<Request*>(mnl_nlmsg_put_extra_header(header, sizeof(Request))) = request;
  if (::send(netlink.get(), header, header->nlmsg_len, 0) < 0) return fail_errno("send", "sock_diag request");
  alignas(nlmsghdr) static thread_local std::array<char, 32768> answer{};
  for (;;) {
    const ssize_t size = ::recv(netlink.get(), answer.data(), answer.size(), 0);
    if (size < 0) return fail_errno("recv", "sock_diag answer");
    int left = static_cast<int>(size);
    for (const auto* message = reinterpret_cast<const nlmsghdr*>(answer.data()); mnl_nlmsg_ok(message, left);
         message = mnl_nlmsg_next(message, &left)) {
      if (message->nlmsg_type == NLMSG_DONE || message->nlmsg_type == NLMSG_ERROR) return {};  // an error: no module
      on_message(*message);
    }
  }
}

void read_inet(const nlmsghdr& message, int protocol, std::vector<DatagramSocket>& sockets) {
  const auto& told = *static_cast<const inet_diag_msg*>(mnl_nlmsg_get_payload(&message));
  DatagramSocket socket{
      .inode = told.idiag_inode, .protocol = protocol, .port = ntohs(told.id.idiag_sport), .shutdown = 0};
  mnl_attr_parse(
      &message, sizeof told,
      [](const nlattr* attribute, void* data) {
        if (mnl_attr_get_type(attribute) == INET_DIAG_SHUTDOWN)
          static_cast<DatagramSocket*>(data)->shutdown = mnl_attr_get_u8(attribute);
        return MNL_CB_OK;
      },
      &socket);
  sockets.push_back(socket);
}

}  // namespace

Result<std::vector<DatagramSocket>> datagram_sockets() {
  std::vector<DatagramSocket> sockets;
  for (const int protocol : {IPPROTO_UDP, IPPROTO_UDPLITE}) {
    for (const int family : {AF_INET, AF_INET6}) {
      inet_diag_req_v2 request{};
      request.sdiag_family = static_cast<std::uint8_t>(family);
      request.sdiag_protocol = static_cast<std::uint8_t>(protocol);
      request.idiag_states = ~0U;
      RELIVE_TRY(dump(request, [&](const nlmsghdr& message) { read_inet(message, protocol, sockets); }));
    }
  }
  return sockets;
}

}  // namespace relive::capture
