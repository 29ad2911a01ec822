#include "capture/sock_diag.h"

#include <libmnl/libmnl.h>
#include <linux/if_packet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/packet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <charconv>
#include <cstring>
#include <functional>
#include <span>
#include <sstream>
#include <string>

#include "base/unique_fd.h"
#include "model/endpoint.h"

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

// One group that was joined several times is listed once, with how often.
void read_packet_groups(const nlattr* attribute, std::vector<model::Membership>& memberships) {
  const std::size_t count = mnl_attr_get_payload_len(attribute) / sizeof(packet_diag_mclist);
  const auto* const entries = static_cast<const packet_diag_mclist*>(mnl_attr_get_payload(attribute));
  for (const packet_diag_mclist& entry : std::span(entries, count)) {
    packet_mreq request{};
    request.mr_ifindex = static_cast<int>(entry.pdmc_index);
    request.mr_type = entry.pdmc_type;
    request.mr_alen = entry.pdmc_alen;
    std::memcpy(request.mr_address, entry.pdmc_addr, sizeof request.mr_address);
    const auto bytes = std::as_bytes(std::span(&request, 1));
    for (std::uint32_t time = 0; time < entry.pdmc_count; ++time)
      memberships.push_back({.level = SOL_PACKET, .group = {bytes.begin(), bytes.end()}});
  }
}

}  // namespace

std::vector<RawSocket> parse_connected_raw(std::string_view text) {
  constexpr std::size_t kWords =
      10;  // "1: local:port remote:port state queues timer retransmits uid timeout inode ..."
  constexpr std::string_view kEstablished = "01";
  std::vector<RawSocket> sockets;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream in(line);
    std::array<std::string, kWords> words;
    for (std::string& word : words) in >> word;
    if (words[3] != kEstablished) continue;
    const std::string digits = words[2].substr(0, words[2].find(':'));
    std::array<std::uint32_t, 4> address{};  // each as a number of the machine's own order
    const std::size_t count = digits.size() / 8;
    if (count != 1 && count != address.size()) continue;
    for (std::size_t at = 0; at < count; ++at)
      std::from_chars(digits.data() + 8 * at, digits.data() + 8 * at + 8, address[at], 16);
    RawSocket socket;
    std::from_chars(words[9].data(), words[9].data() + words[9].size(), socket.inode);
    model::Endpoint peer;
    std::memcpy(peer.address.data(), address.data(), peer.address.size());
    if (count == 1) {
      sockaddr_in in4{};
      in4.sin_family = AF_INET;
      in4.sin_addr.s_addr = address[0];
      peer = *model::endpoint_of(std::as_bytes(std::span(&in4, 1)));
    }
    socket.peer = model::address_for(count == 1 ? AF_INET : AF_INET6, peer);
    sockets.push_back(std::move(socket));
  }
  return sockets;
}

Result<std::optional<PacketSocket>> packet_socket(std::uint64_t inode) {
  std::optional<PacketSocket> found;
  packet_diag_req request{};
  request.sdiag_family = AF_PACKET;
  request.pdiag_show = PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG;
  RELIVE_TRY(dump(request, [&](const nlmsghdr& message) {
    const auto& told = *static_cast<const packet_diag_msg*>(mnl_nlmsg_get_payload(&message));
    if (told.pdiag_ino != inode) return;
    found.emplace();
    mnl_attr_parse(
        &message, sizeof told,
        [](const nlattr* attribute, void* data) {
          auto& socket = *static_cast<PacketSocket*>(data);
          const auto type = mnl_attr_get_type(attribute);
          if (type == PACKET_DIAG_RX_RING || type == PACKET_DIAG_TX_RING) socket.ring = true;
          if (type == PACKET_DIAG_MCLIST) read_packet_groups(attribute, socket.memberships);
          return MNL_CB_OK;
        },
        &*found);
  }));
  return found;
}

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
