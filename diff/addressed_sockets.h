// Sockets that send to addresses and know of no other socket (model::is_addressed): UDP, raw, netlink and packet
// sockets. Their part of diff/sockets.h. Pure.
//
// One that is still there is put right in place: its address, whom it is connected to, options, groups. What came since
// is thrown away. A datagram that was read since can come again only from a socket of the task, which sends it again.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "diff/descriptors.h"
#include "diff/sockets.h"
#include "diff/table.h"
#include "model/endpoint.h"
#include "model/sockets.h"

namespace relive::diff {

// REQUIRES of all: both are addressed sockets of one family, type and protocol.
[[nodiscard]] bool addressed_can_become(const model::Socket& wanted, const model::Socket& living);
[[nodiscard]] SocketPart make_addressed(std::size_t wanted, const Table& wanted_table, const Table& living_table,
                                        const Matches& matches);
[[nodiscard]] SocketPart put_right_addressed(std::size_t wanted, const Table& wanted_table, const Table& living_table,
                                             const Matches& matches);
// Who is to send the unread datagrams again; nothing where one of them cannot come again.
[[nodiscard]] std::optional<Senders> addressed_senders(const model::Socket& socket, const Table& table);
[[nodiscard]] std::vector<std::string> addressed_changes(const model::Socket& wanted, const model::Socket& living);

// The options that join a group with its filter, in order.
[[nodiscard]] std::vector<model::SocketOption> joining(const model::Membership& membership);
// What a datagram from `from` is sent to in order to reach the receiver. REQUIRES: both are internet addresses.
[[nodiscard]] model::Endpoint destination(const model::Socket& receiver, const model::Endpoint& from);

}  // namespace relive::diff
