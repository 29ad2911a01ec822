#include "diff/sockets.h"

#include <fmt/format.h>

#include <algorithm>

namespace relive::diff {

using model::Socket;
using model::SocketState;

namespace {

bool is_connection(const Socket& socket) {
  return socket.state == SocketState::connected || socket.state == SocketState::hung_up;
}

const model::SocketOption* find_option(const Socket& socket, const model::SocketOption& option) {
  const auto found = std::ranges::find_if(socket.options, [&](const model::SocketOption& other) {
    return other.level == option.level && other.name == option.name;
  });
  return found == socket.options.end() ? nullptr : &*found;
}

}  // namespace

bool can_become(const Socket& wanted, const Socket& living) {
  if (wanted.family != living.family || wanted.protocol != living.protocol) return false;
  if (is_connection(wanted)) {
    // What had ended cannot be living again, but what lived may have ended.
    return is_connection(living) && (wanted.state == SocketState::connected || living.state == SocketState::hung_up);
  }
  if (wanted.state != living.state) return false;
  return wanted.state == SocketState::fresh || wanted.local == living.local;
}

bool can_stand_for(const Socket& wanted, const Socket& living) {
  if (!is_connection(wanted)) return true;
  if (wanted.peer_inode != 0) return living.peer_inode != 0;
  return living.state == SocketState::hung_up;
}

bool found_by_address(const Socket& wanted) { return !is_connection(wanted) && wanted.state != SocketState::fresh; }

bool can_stay(const Socket& wanted, const Socket& living, const Table& wanted_table, const Table& living_table,
              const Matches& matches) {
  if (wanted.state == SocketState::hung_up) return wanted.received == living.received;
  if (wanted.peer_inode == 0) return true;
  const auto peer = wanted_table.socket_with_inode(wanted.peer_inode);
  if (!peer || !matches.living_of[*peer]) return false;
  const auto& living_peer = *living_table.as<Socket>(*matches.living_of[*peer]);
  return living.peer_inode == living_peer.inode && living.state == SocketState::connected &&
         wanted.shutdown == living.shutdown && wanted.received == living.received;
}

SocketPart make_socket(std::size_t wanted, const Table& wanted_table) {
  const auto& socket = *wanted_table.as<Socket>(wanted);
  SocketPart part;
  if (!is_connection(socket)) {
    part.made.emplace_back(MakeSocket{wanted});
  } else if (const auto peer = wanted_table.socket_with_inode(socket.peer_inode)) {
    if (*peer > wanted) part.made.emplace_back(MakeSocketPair{wanted, *peer});
  } else {
    part.made.emplace_back(MakeHungUp{wanted});
    if (socket.state != SocketState::hung_up) {
      part.notes.push_back(wanted_table.name(wanted) +
                           ": closed since the snapshot: gone; the program will see the end of the connection");
    }
  }
  return part;
}

SocketPart put_right_socket(std::size_t wanted, const Table& wanted_table, const Table& living_table,
                            const Matches& matches) {
  const auto& socket = *wanted_table.as<Socket>(wanted);
  const auto& living = *living_table.as<Socket>(*matches.living_of[wanted]);
  SocketPart part;
  if (socket.state == SocketState::connected && living.state == SocketState::hung_up) {
    part.notes.push_back(wanted_table.name(wanted) +
                         ": the connection has ended since the snapshot and cannot come back");
  } else if (socket.state == SocketState::connected && socket.peer_inode == 0) {
    part.notes.push_back(wanted_table.name(wanted) + ": connection kept");
  }
  if (living.state == SocketState::hung_up) return part;
  for (const model::SocketOption& option : socket.options) {
    const model::SocketOption* const now = find_option(living, option);
    if (now != nullptr && now->value == option.value) continue;
    part.made.emplace_back(SetOption{.from = living_table.numbers(*matches.living_of[wanted]).front(),
                                     .option = option,
                                     .living = now == nullptr ? std::vector<std::byte>{} : now->value});
  }
  if (socket.state == SocketState::listening && socket.backlog != living.backlog)
    part.rights.emplace_back(Listen{wanted_table.numbers(wanted).front(), socket.backlog});
  return part;
}

std::string bytes_text(const std::vector<std::byte>& wanted, const std::vector<std::byte>& living) {
  if (wanted.size() == living.size()) return fmt::format("the {} unread bytes are others", wanted.size());
  return fmt::format("unread bytes {} -> {}", wanted.size(), living.size());
}

std::vector<std::string> changes(const Socket& wanted, const Socket& living) {
  std::vector<std::string> out;
  if (wanted.state != living.state) out.emplace_back("its peer has gone since");
  if ((wanted.peer_inode != 0 || wanted.state == SocketState::hung_up) && wanted.received != living.received)
    out.push_back(bytes_text(wanted.received, living.received));
  if (living.state == SocketState::hung_up) return out;
  if (wanted.backlog != living.backlog) out.push_back(fmt::format("backlog {} -> {}", wanted.backlog, living.backlog));
  if (wanted.peer_inode != 0 && wanted.shutdown != living.shutdown) out.emplace_back("shut down since");
  const auto options = std::ranges::count_if(wanted.options, [&](const model::SocketOption& option) {
    return std::ranges::find(living.options, option) == living.options.end();
  });
  if (options != 0) out.push_back(fmt::format("{} socket option{} changed", options, options == 1 ? "" : "s"));
  return out;
}

}  // namespace relive::diff
