#include <fmt/format.h>
#include <libmnl/libmnl.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>

#include "capture/opened.h"

namespace relive::capture {

namespace {

Result<std::int32_t> asked(int fd, unsigned long request, const char* what) {
  std::int32_t value = 0;
  if (::ioctl(fd, request, &value) != 0) return fail_errno("ioctl", what);
  return value;
}

// Of the task's network namespace: made there, and closed there as soon as we have a duplicate.
Result<UniqueFd> netlink_of(parasite::Visit& visit) {
  const auto lowest = RELIVE_TRY(visit.next_descriptors(1));
  const auto number = static_cast<std::uint64_t>(lowest[0].value);
  RELIVE_TRY(visit.record_undo("close a netlink socket", SYS_close, {number}));
  RELIVE_TRY(visit.syscall("socket", SYS_socket, {AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE}));
  auto ours = visit.task().borrow(lowest[0]);
  RELIVE_TRY(visit.syscall("close", SYS_close, {number}));
  return ours;
}

// The attribute of this type among those from `begin` on; null where there is none.
const nlattr* find_attribute(const void* begin, std::size_t size, int type) {
  const auto* attribute = static_cast<const nlattr*>(begin);
  const auto* const end = static_cast<const char*>(begin) + size;
  for (; mnl_attr_ok(attribute, static_cast<int>(end - reinterpret_cast<const char*>(attribute)));
       attribute = mnl_attr_next(attribute)) {
    if (mnl_attr_get_type(attribute) == type) return attribute;
  }
  return nullptr;
}
const nlattr* find_within(const nlattr* nest, int type) {
  if (nest == nullptr) return nullptr;
  return find_attribute(mnl_attr_get_payload(nest), mnl_attr_get_payload_len(nest), type);
}

// Has a packet no header of the device's own? TUNGETIFF says so of every device without a filter (IFF_NOFILTER is the
// same bit as IFF_NO_PI); rtnetlink(7) tells it (IFLA_TUN_PI, Linux 4.17).
Result<bool> has_no_header(parasite::Visit& visit, const std::string& interface) {
  const UniqueFd netlink = RELIVE_TRY(netlink_of(visit));
  alignas(nlmsghdr) std::array<char, 8192> buffer{};
  nlmsghdr* const header = mnl_nlmsg_put_header(buffer.data());
  header->nlmsg_type = RTM_GETLINK;
  header->nlmsg_flags = NLM_F_REQUEST;
  mnl_nlmsg_put_extra_header(header, sizeof(ifinfomsg));
  mnl_attr_put_strz(header, IFLA_IFNAME, interface.c_str());
  if (::send(netlink.get(), header, header->nlmsg_len, 0) < 0) return fail_errno("send", "RTM_GETLINK");
  const ssize_t size = ::recv(netlink.get(), buffer.data(), buffer.size(), 0);
  if (size < 0) return fail_errno("recv", "RTM_GETLINK");
  if (mnl_nlmsg_ok(header, static_cast<int>(size)) && header->nlmsg_type == RTM_NEWLINK) {
    const auto* const all = static_cast<const char*>(mnl_nlmsg_get_payload_offset(header, sizeof(ifinfomsg)));
    const auto left = static_cast<std::size_t>(static_cast<const char*>(mnl_nlmsg_get_payload_tail(header)) - all);
    const nlattr* const data = find_within(find_attribute(all, left, IFLA_LINKINFO), IFLA_INFO_DATA);
    if (const nlattr* const told = find_within(data, IFLA_TUN_PI)) return mnl_attr_get_u8(told) == 0;
  }
  return fail(ErrorKind::system, fmt::format("rtnetlink tells nothing of the tun interface {}", interface));
}

}  // namespace

Result<model::FileObject> read_tunnel(const Opened& opened) {
  model::Tunnel tunnel;
  tunnel.path = opened.link;
  ifreq request{};
  if (::ioctl(opened.ours, TUNGETIFF, &request) != 0) {
    if (errno == EBADFD) return model::FileObject(std::move(tunnel));
    return fail_errno("ioctl", "TUNGETIFF");
  }
  tunnel.interface = request.ifr_name;
  tunnel.flags = static_cast<std::uint16_t>(request.ifr_flags) & ~std::uint32_t{IFF_NO_PI};
  if (opened.table.visit == nullptr)
    return fail(ErrorKind::system, fmt::format("{}: its task is not visited", opened.link));
  if (RELIVE_TRY(has_no_header(*opened.table.visit, tunnel.interface))) tunnel.flags |= IFF_NO_PI;
  if ((tunnel.flags & IFF_MULTI_QUEUE) != 0)  // which of its queues are in use is not told
    return model::FileObject(model::UnhandledFile{"tun device with several queues (IFF_MULTI_QUEUE)"});
  sock_fprog filter{};
  if (::ioctl(opened.ours, TUNGETFILTER, &filter) == 0 && filter.len != 0)
    return model::FileObject(model::UnhandledFile{"tap device with a filter (TUNATTACHFILTER)"});
  tunnel.send_buffer = RELIVE_TRY(asked(opened.ours, TUNGETSNDBUF, "TUNGETSNDBUF"));
  tunnel.header = RELIVE_TRY(asked(opened.ours, TUNGETVNETHDRSZ, "TUNGETVNETHDRSZ"));
  tunnel.little_endian = RELIVE_TRY(asked(opened.ours, TUNGETVNETLE, "TUNGETVNETLE"));
  pollfd one{.fd = opened.ours, .events = POLLIN, .revents = 0};
  tunnel.unread = ::poll(&one, 1, 0) == 1 && (one.revents & POLLIN) != 0;
  return model::FileObject(std::move(tunnel));
}

}  // namespace relive::capture
