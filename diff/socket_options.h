// Options of sockets, as the planners of sockets need them. Pure.
#pragma once

#include "diff/sockets.h"
#include "model/ids.h"
#include "model/sockets.h"

namespace relive::diff {

[[nodiscard]] const model::SocketOption* find_option(const model::Socket& socket, int level, int name);
// The option's value as a number; 0 where the socket has no such option.
[[nodiscard]] int integer(const model::Socket& socket, int level, int name);
// Is any byte of its value set?
[[nodiscard]] bool is_set(const model::Socket& socket, int level, int name);
[[nodiscard]] bool same_option(const model::Socket& one, const model::Socket& other, int level, int name);
// Do the unread messages certainly fit into the socket when it has been emptied?
[[nodiscard]] bool certainly_fits(const model::Socket& socket);
// Sets what differs, on the living socket under `from`.
void put_options_right(const model::Socket& wanted, const model::Socket& living, model::RemoteFd from,
                       SocketPart& part);

}  // namespace relive::diff
