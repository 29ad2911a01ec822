// The multicast groups of a socket. The kernel lists a network namespace's groups, not a socket's: each of them is
// asked of the socket (MCAST_MSFILTER), which answers EADDRNOTAVAIL where it has not joined it. A group on an interface
// that is gone since is in no list, and goes unseen.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/ids.h"
#include "model/sockets.h"

namespace relive::capture {

// Groups that somebody has joined, without their filters.
std::vector<model::Membership> parse_igmp(std::string_view igmp);    // /proc/net/igmp
std::vector<model::Membership> parse_igmp6(std::string_view igmp6);  // /proc/net/igmp6
// Of the task's network namespace.
Result<std::vector<model::Membership>> joined_groups(model::Pid pid);
// Those of `groups` that the socket has joined, with its filters.
Result<std::vector<model::Membership>> memberships_of(int socket, int family,
                                                      const std::vector<model::Membership>& groups);

}  // namespace relive::capture
