// Two TCP sockets that are connected to each other, as they once were: with the same addresses and the same unread
// bytes, one of them shut down for sending if it was, and without a packet (TCP repair: TCP_REPAIR of Linux 3.5,
// net/ipv4/tcp.c). Part of apply/sockets.h.
#pragma once

#include <functional>

#include "base/result.h"
#include "base/unique_fd.h"
#include "model/sockets.h"

namespace relive::apply {

struct RepairedPair {
  UniqueFd first;
  UniqueFd second;
};

// Gives a new socket the options of the wanted one. Called before it is bound and when it is connected: each time there
// are options that can only be set then.
using SetOptions = std::function<Result<void>(int socket, const model::Socket& wanted)>;

// Makes both in this process, which must be in the network namespace that the addresses mean. REQUIRES: one and other
// are two ends of one connection, of one family. Errors: permission (TCP repair wants CAP_NET_ADMIN in the network
// namespace), refused (an address is taken, or the unread bytes do not fit), system. Nothing is left after any.
Result<RepairedPair> make_repaired_pair(const model::Socket& one, const model::Socket& other,
                                        const SetOptions& set_options);

}  // namespace relive::apply
