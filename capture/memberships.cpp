#include "capture/memberships.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/number.h"
#include "task/procfs.h"

namespace relive::capture {

namespace {

using model::Membership;

template <class T>
std::vector<std::byte> as_bytes(const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

template <class Address>
Membership group_of(int level, std::uint32_t interface, const Address& address) {
  group_req request{};
  request.gr_interface = interface;
  std::memcpy(&request.gr_group, &address, sizeof address);
  return {.level = level, .group = as_bytes(request)};
}

std::string_view take_line(std::string_view& text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return line;
}
std::string_view take_word(std::string_view& line) {
  const std::size_t begin = std::min(line.find_first_not_of(" \t"), line.size());
  const std::size_t end = std::min(line.find_first_of(" \t", begin), line.size());
  const std::string_view word = line.substr(begin, end - begin);
  line.remove_prefix(end);
  return word;
}

// Not joined, or no such interface; a socket that knows no groups of this family answers ENOPROTOOPT.
bool says_no(int error) { return error == EADDRNOTAVAIL || error == ENODEV || error == EINVAL || error == ENOPROTOOPT; }

}  // namespace

// A line of an interface ("1\tlo  :  1  V3"), then one of each of its groups ("\t\t\t\t010000E0 ..."), which is written
// as a number of the machine's own order.
std::vector<Membership> parse_igmp(std::string_view igmp) {
  std::vector<Membership> groups;
  std::optional<std::uint32_t> interface;
  take_line(igmp);
  while (!igmp.empty()) {
    std::string_view line = take_line(igmp);
    const bool of_group = line.starts_with('\t');
    const std::string_view word = take_word(line);
    if (!of_group) {
      interface = parse_number<std::uint32_t>(word);
    } else if (const auto address = parse_number<std::uint32_t>(word, 16); address && interface) {
      sockaddr_in group{};
      group.sin_family = AF_INET;
      group.sin_addr.s_addr = *address;
      groups.push_back(group_of(IPPROTO_IP, *interface, group));
    }
  }
  return groups;
}

// "1    lo    ff020000000000000000000000000001     1 0000000C 0"
std::vector<Membership> parse_igmp6(std::string_view igmp6) {
  std::vector<Membership> groups;
  while (!igmp6.empty()) {
    std::string_view line = take_line(igmp6);
    const auto interface = parse_number<std::uint32_t>(take_word(line));
    take_word(line);
    const std::string_view digits = take_word(line);
    sockaddr_in6 group{};
    group.sin6_family = AF_INET6;
    if (!interface || digits.size() != 2 * sizeof group.sin6_addr) continue;
    for (std::size_t at = 0; at < sizeof group.sin6_addr; ++at)
      group.sin6_addr.s6_addr[at] = parse_number<std::uint8_t>(digits.substr(2 * at, 2), 16).value_or(0);
    groups.push_back(group_of(IPPROTO_IPV6, *interface, group));
  }
  return groups;
}

Result<std::vector<Membership>> joined_groups(model::Pid pid) {
  // A kernel without multicast, or without IPv6, has no such file.
  auto groups = parse_igmp(task::read_proc(pid, "net/igmp").value_or(""));
  const auto more = parse_igmp6(task::read_proc(pid, "net/igmp6").value_or(""));
  groups.insert(groups.end(), more.begin(), more.end());
  return groups;
}

Result<std::vector<Membership>> memberships_of(int socket, int family, const std::vector<Membership>& groups) {
  std::vector<Membership> members;
  constexpr std::size_t kRoom = 64;
  std::vector<std::byte> answer;
  for (const Membership& group : groups) {
    if (family != AF_INET6 && group.level == IPPROTO_IPV6) continue;
    group_req request{};
    std::memcpy(&request, group.group.data(), sizeof request);
    group_filter filter{};
    for (std::size_t room = kRoom;; room = filter.gf_numsrc) {  // it tells how many sources there are
      filter = {};
      filter.gf_interface = request.gr_interface;
      filter.gf_group = request.gr_group;
      filter.gf_numsrc = static_cast<std::uint32_t>(room);
      answer.assign(GROUP_FILTER_SIZE(room), std::byte{0});
      std::memcpy(answer.data(), &filter, offsetof(group_filter, gf_slist));
      auto size = static_cast<socklen_t>(answer.size());
      if (::getsockopt(socket, group.level, MCAST_MSFILTER, answer.data(), &size) != 0) {
        if (!says_no(errno)) return fail_errno("getsockopt", "MCAST_MSFILTER");
        break;
      }
      std::memcpy(&filter, answer.data(), offsetof(group_filter, gf_slist));
      if (filter.gf_numsrc > room) continue;
      Membership member = group;
      member.excludes = filter.gf_fmode == MCAST_EXCLUDE;
      for (std::size_t at = 0; at < filter.gf_numsrc; ++at) {
        const auto* const begin = answer.data() + offsetof(group_filter, gf_slist) + at * sizeof(sockaddr_storage);
        member.sources.emplace_back(begin, begin + sizeof(sockaddr_storage));
      }
      members.push_back(std::move(member));
      break;
    }
  }
  return members;
}

}  // namespace relive::capture
