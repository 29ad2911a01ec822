#include "diff/sockets.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <cstring>

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

// So much is sent at one go for certain, into a connection that has just been emptied.
constexpr std::size_t kMostRefilled = std::size_t{16} << 10;

int integer(const model::SocketOption& option) {
  int value = 0;
  if (option.value.size() >= sizeof value) std::memcpy(&value, option.value.data(), sizeof value);
  return value;
}

// Might this sender keep bytes back, or take less than kMostRefilled?
bool holds_back(const Socket& sender) {
  return std::ranges::any_of(sender.options, [](const model::SocketOption& option) {
    if (option.level == IPPROTO_TCP && option.name == TCP_CORK) return integer(option) != 0;
    return option.level == SOL_SOCKET && option.name == SO_SNDBUF &&
           integer(option) < static_cast<int>(4 * kMostRefilled);
  });
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
  if (wanted.peer_inode != 0) {
    const bool same_addresses = wanted.local == living.local && wanted.peer == living.peer;
    return living.peer_inode != 0 && (wanted.family == AF_UNIX || same_addresses);
  }
  return living.state == SocketState::hung_up;
}

bool found_by_address(const Socket& wanted) { return !is_connection(wanted) && wanted.state != SocketState::fresh; }

bool can_stay(const Socket& wanted, const Socket& living, const Table& wanted_table, const Table& living_table,
              const Matches& matches) {
  if (wanted.state == SocketState::hung_up) return wanted.received == living.received;
  if (wanted.peer_inode == 0) return true;
  if (wanted.family != AF_UNIX) return true;  // a new TCP connection could not have its addresses
  const auto peer = wanted_table.socket_with_inode(wanted.peer_inode);
  if (!peer || !matches.living_of[*peer]) return false;
  const auto& living_peer = *living_table.as<Socket>(*matches.living_of[*peer]);
  return living.peer_inode == living_peer.inode && living.state == SocketState::connected &&
         wanted.shutdown == living.shutdown && wanted.received == living.received;
}

SocketPart make_socket(std::size_t wanted, const Table& wanted_table, const Matches& matches) {
  const auto& socket = *wanted_table.as<Socket>(wanted);
  SocketPart part;
  if (!is_connection(socket)) {
    part.made.emplace_back(MakeSocket{wanted});
    return part;
  }
  const auto peer = wanted_table.socket_with_inode(socket.peer_inode);
  if (peer && socket.family == AF_UNIX) {
    if (*peer > wanted) part.made.emplace_back(MakeSocketPair{wanted, *peer});
  } else if (peer && !matches.living_of[*peer]) {
    if (*peer > wanted) part.made.emplace_back(MakeConnection{wanted, *peer});
  } else {
    part.made.emplace_back(MakeHungUp{wanted});
    if (socket.state != SocketState::hung_up) {
      part.notes.push_back(wanted_table.name(wanted) +
                           ": closed since the snapshot: gone; the program will see the end of the connection");
    }
  }
  return part;
}

namespace {

// What is unread at one end of a TCP connection inside the task: sent again by the other end.
void refill(SocketPart& part, std::size_t wanted, const Table& wanted_table, const Table& living_table,
            const Matches& matches) {
  const auto& socket = *wanted_table.as<Socket>(wanted);
  const auto& living = *living_table.as<Socket>(*matches.living_of[wanted]);
  const auto peer = wanted_table.socket_with_inode(socket.peer_inode);
  const bool whole = peer && matches.living_of[*peer] && living.peer_inode != 0 &&
                     living_table.as<Socket>(*matches.living_of[*peer])->inode == living.peer_inode;
  if (!whole) {
    part.notes.push_back(wanted_table.name(wanted) +
                         ": half closed since the snapshot, or with bytes under way: kept as it is");
    return;
  }
  if (socket.received == living.received) return;
  const auto& sender = *wanted_table.as<Socket>(*peer);
  if (socket.received.size() > kMostRefilled || holds_back(sender)) {
    part.refusals.push_back(
        {.object = wanted_table.name(wanted),
         .reason = fmt::format("{} unread bytes of a connection inside the task cannot be sent again at one go",
                               socket.received.size()),
         .hint = fmt::format("at most {}, with neither TCP_CORK nor a small SO_SNDBUF", kMostRefilled)});
    return;
  }
  part.rights.emplace_back(
      RefillConnection{wanted, wanted_table.numbers(wanted).front(), wanted_table.numbers(*peer).front()});
}

}  // namespace

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
  if (socket.peer_inode != 0 && socket.family != AF_UNIX) refill(part, wanted, wanted_table, living_table, matches);
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
  const bool both_known = wanted.peer_inode != 0 && (living.peer_inode != 0 || wanted.family == AF_UNIX);
  if ((both_known || wanted.state == SocketState::hung_up) && wanted.received != living.received)
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
