#include "diff/sockets.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>

#include "diff/addressed_sockets.h"
#include "diff/socket_options.h"

namespace relive::diff {

using model::Message;
using model::Socket;
using model::SocketState;

namespace {

constexpr std::string_view kGoneWithFiles =
    "gone since the snapshot, and it held an unread message with descriptors that cannot be sent again";

bool is_connection(const Socket& socket) {
  return socket.state == SocketState::connected || socket.state == SocketState::hung_up;
}
bool is_datagram(const Socket& socket) { return socket.type == SOCK_DGRAM; }
// Connected to a socket that is not the task's own.
bool leads_outside(const Socket& socket) { return socket.state == SocketState::connected && socket.peer_inode == 0; }
// Two sockets of the task, each connected to the other.
bool is_pair(const Socket& one, const Socket& other) {
  return one.peer_inode == other.inode && other.peer_inode == one.inode;
}

// Who is to send the unread messages again; nothing where one of them cannot.
std::optional<Senders> senders_of(const Socket& socket, const Table& table) {
  Senders senders;
  const auto peer = table.socket_with_inode(socket.peer_inode);
  for (const Message& message : socket.unread) {
    std::optional<std::size_t> sender = peer;
    if (peer && is_datagram(socket) && table.as<Socket>(*peer)->local != message.from) return std::nullopt;
    for (std::size_t other = 0; !sender && !message.from.empty() && other < table.files(); ++other) {
      const auto* const named = table.as<Socket>(other);
      if (named != nullptr && is_datagram(*named) && named->local == message.from && named->shutdown == 0 &&
          (named->state == SocketState::bound || named->peer_inode == socket.inode))
        sender = other;
    }
    if (!sender && !message.from.empty()) return std::nullopt;
    senders.push_back(sender);
  }
  return senders;
}
std::string only_they_can_send(const Socket& socket) {
  const auto named = std::ranges::find_if(socket.unread, [](const Message& message) { return !message.from.empty(); });
  return fmt::format("it held an unread datagram that only its sender ({}) can send again",
                     named == socket.unread.end() ? "unnamed" : model::address_text(named->from));
}

// The same message, but for the files that travel with it, which are others in every table.
bool looks_like(const Message& wanted, const Message& living) {
  return wanted.bytes == living.bytes && wanted.from == living.from && wanted.foreign_sender == living.foreign_sender &&
         wanted.unseen == living.unseen && wanted.files.size() == living.files.size();
}
bool look_like(const std::vector<Message>& wanted, const std::vector<Message>& living) {
  return std::ranges::equal(wanted, living, looks_like);
}
bool is_same(const Message& wanted, const Message& living, const Matches& matches) {
  return looks_like(wanted, living) && std::ranges::equal(wanted.files, living.files, [&](auto file, auto now) {
           return matches.living_of[file] == now;
         });
}

bool same_content(const Socket& wanted, const Socket& living, const Matches& matches) {
  return wanted.reset == living.reset &&
         std::ranges::equal(wanted.unread, living.unread,
                            [&](const Message& one, const Message& other) { return is_same(one, other, matches); });
}

bool begins_with(const std::vector<Message>& all, const std::vector<Message>& begin, const Matches& matches) {
  return all.size() >= begin.size() &&
         std::equal(begin.begin(), begin.end(), all.begin(),
                    [&](const Message& one, const Message& other) { return is_same(one, other, matches); });
}

// Can the messages be taken out and sent again, between sockets that stay?
bool can_be_refilled(const Socket& wanted, const Socket& living) {
  return wanted.state != SocketState::hung_up && wanted.shutdown == 0 && living.shutdown == 0 && certainly_fits(wanted);
}

// A file that was renamed, or replaced, cannot be made by binding. Of those that are made with their name.
bool has_lost_its_name(const Socket& socket) {
  return socket.file && !socket.file->there && !socket.file->deleted && (is_datagram(socket) || !is_connection(socket));
}

// May the two have one name, although they are two? Relative ones are told apart by where they are.
bool same_name(const Socket& wanted, const Socket& living) {
  if (wanted.local != living.local) return false;
  if (wanted.inode == living.inode || !model::is_relative(wanted)) return true;
  return wanted.file && living.file && !wanted.file->path.empty() && wanted.file->path == living.file->path;
}

}  // namespace

std::vector<std::size_t> partners(std::size_t wanted, const Table& wanted_table) {
  const auto& socket = *wanted_table.as<Socket>(wanted);
  std::vector<std::size_t> all;
  if (const auto peer = wanted_table.socket_with_inode(socket.peer_inode)) all.push_back(*peer);
  if (socket.unread.empty()) return all;
  const auto senders =
      model::is_addressed(socket) ? addressed_senders(socket, wanted_table) : senders_of(socket, wanted_table);
  for (const auto& sender : senders.value_or(Senders{}))
    if (sender) all.push_back(*sender);
  return all;
}

bool can_become(const Socket& wanted, const Socket& living) {
  if (wanted.family != living.family || wanted.type != living.type || wanted.protocol != living.protocol) return false;
  if (model::is_addressed(wanted)) return addressed_can_become(wanted, living);
  if (is_datagram(wanted)) {
    // A name cannot be taken back, connecting elsewhere throws away what is unread, and shutting down is for ever.
    if (!same_name(wanted, living) || wanted.peer != living.peer || wanted.shutdown != living.shutdown) return false;
    return wanted.state == living.state || (leads_outside(wanted) && living.state == SocketState::hung_up);
  }
  if (is_connection(wanted)) {
    // What had ended cannot be living again, but what lived may have ended.
    return is_connection(living) && (wanted.state == SocketState::connected || living.state == SocketState::hung_up);
  }
  if (wanted.state != living.state || wanted.shutdown != living.shutdown) return false;
  return wanted.state == SocketState::fresh || same_name(wanted, living);
}

bool can_stand_for(const Socket& wanted, const Socket& living) {
  if (model::is_addressed(wanted)) return true;
  if (!is_connection(wanted)) return true;
  if (wanted.peer_inode != 0) {
    const bool same_addresses = wanted.local == living.local && wanted.peer == living.peer;
    return living.peer_inode != 0 && (wanted.family == AF_UNIX || same_addresses);
  }
  if (is_datagram(wanted)) return living.peer_inode == 0 && wanted.state == living.state;
  return living.state == SocketState::hung_up;
}

bool found_by_address(const Socket& wanted) {
  if (wanted.state == SocketState::fresh) return false;
  return !is_connection(wanted) || model::is_addressed(wanted);
}

bool can_stay(const Socket& wanted, const Socket& living, const Table& wanted_table, const Table& living_table,
              const Matches& matches) {
  if (model::is_addressed(wanted)) return true;
  if (wanted.state == SocketState::hung_up) return same_content(wanted, living, matches);
  if (wanted.peer_inode == 0) {
    return leads_outside(wanted) || same_content(wanted, living, matches) ||
           (can_be_refilled(wanted, living) && senders_of(wanted, wanted_table)) ||
           begins_with(living.unread, wanted.unread, matches);
  }
  if (wanted.family != AF_UNIX) return true;  // a new TCP connection could not have its addresses
  const auto peer = wanted_table.socket_with_inode(wanted.peer_inode);
  if (!peer || !matches.living_of[*peer]) return false;
  const auto& wanted_peer = *wanted_table.as<Socket>(*peer);
  const auto& living_peer = *living_table.as<Socket>(*matches.living_of[*peer]);
  if (living.peer_inode != living_peer.inode || living.state != SocketState::connected ||
      wanted.shutdown != living.shutdown)
    return false;
  return same_content(wanted, living, matches) ||
         (can_be_refilled(wanted, living) && can_be_refilled(wanted_peer, living_peer) &&
          senders_of(wanted, wanted_table));
}

namespace {

void make_datagram_socket(std::size_t wanted, const Table& table, const Table& living_table, const Matches& matches,
                          SocketPart& part) {
  const auto& socket = *table.as<Socket>(wanted);
  part.made.emplace_back(MakeSocket{wanted});
  if (socket.shutdown != 0) part.contents.emplace_back(ShutDown{table.at_home(wanted), socket.shutdown});
  if (leads_outside(socket) || socket.peer_inode != 0) {
    if (socket.peer.empty()) {
      part.refusal =
          "closed since the snapshot, and it was connected to a socket without a name, which cannot be named again";
      return;
    }
    part.joined.emplace_back(ConnectSocket{wanted, leads_outside(socket)});
    if (leads_outside(socket)) {
      part.notes.push_back(table.name(wanted) +
                           ": closed since the snapshot: connected anew; what was unread in it is lost");
    }
  }
  if (socket.unread.empty()) return;
  auto senders = senders_of(socket, table);
  if (model::carries_files(socket)) {
    part.refusal = std::string(kGoneWithFiles);
  } else if (!senders) {
    part.refusal = "gone since the snapshot, and " + only_they_can_send(socket);
  }
  if (!part.refusal.empty()) return;
  FillSocket fill{.file = wanted, .senders = std::move(*senders), .numbers = {}};
  for (const auto& sender : fill.senders) {
    const auto living = sender ? matches.living_of[*sender] : std::nullopt;
    const int home = table.home(wanted);
    fill.numbers.push_back(living ? living_table.number_in(*living, home).value_or(spare_number(*sender, home))
                                  : std::optional<model::RemoteFd>());
  }
  part.joined.emplace_back(std::move(fill));
}

}  // namespace

namespace {

// Files are sent in the commit, when all of them are under their numbers, and only what cannot fail then.
void send_files_again(std::size_t wanted, std::size_t peer, const Socket& socket, const Socket& other,
                      SocketPart& part) {
  if (!model::carries_files(socket)) return;
  if (socket.shutdown != 0 || other.shutdown != 0 || !certainly_fits(socket)) {
    part.refusal = std::string(kGoneWithFiles);
    return;
  }
  part.contents.emplace_back(RefillSocket{wanted, std::nullopt, Senders(socket.unread.size(), peer)});
}

}  // namespace

SocketPart make_socket(std::size_t wanted, const Table& wanted_table, const Table& living_table,
                       const Matches& matches) {
  const auto& socket = *wanted_table.as<Socket>(wanted);
  if (model::is_addressed(socket)) return make_addressed(wanted, wanted_table, living_table, matches);
  SocketPart part;
  const auto peer = wanted_table.socket_with_inode(socket.peer_inode);
  if (has_lost_its_name(socket)) part.refusal = "closed since the snapshot, when its name led to it no more";
  if (socket.state == SocketState::hung_up) {
    part.made.emplace_back(MakeHungUp{wanted});
    if (model::carries_files(socket)) part.refusal = std::string(kGoneWithFiles);
  } else if (peer && socket.family != AF_UNIX && !matches.living_of[*peer]) {
    if (*peer > wanted) part.made.emplace_back(MakeConnection{wanted, *peer});
  } else if (peer && socket.family == AF_UNIX && is_pair(socket, *wanted_table.as<Socket>(*peer))) {
    if (*peer > wanted) part.made.emplace_back(MakeSocketPair{wanted, *peer});
    send_files_again(wanted, *peer, socket, *wanted_table.as<Socket>(*peer), part);
    if (!is_datagram(socket) && !model::address_text(socket.local).starts_with("unnamed")) {
      part.notes.push_back(fmt::format("{}: made anew, without its name {}", wanted_table.name(wanted),
                                       model::address_text(socket.local)));
    }
  } else if (is_datagram(socket)) {
    make_datagram_socket(wanted, wanted_table, living_table, matches, part);
  } else if (!is_connection(socket)) {
    part.made.emplace_back(MakeSocket{wanted});
  } else {
    part.made.emplace_back(MakeHungUp{wanted});
    part.notes.push_back(wanted_table.name(wanted) +
                         ": closed since the snapshot: gone; the program will see the end of the connection");
  }
  return part;
}

namespace {

// Are both ends of a TCP connection inside the task still there, with nothing under way, so that what is unread can be
// sent again by the other end?
bool can_send_again(std::size_t wanted, const Table& wanted_table, const Table& living_table, const Matches& matches,
                    SocketPart& part) {
  const auto& socket = *wanted_table.as<Socket>(wanted);
  const auto& living = *living_table.as<Socket>(*matches.living_of[wanted]);
  const auto peer = wanted_table.socket_with_inode(socket.peer_inode);
  const bool whole = peer && matches.living_of[*peer] && living.peer_inode != 0 &&
                     living_table.as<Socket>(*matches.living_of[*peer])->inode == living.peer_inode &&
                     living.shutdown == socket.shutdown;
  if (!whole) {
    part.notes.push_back(wanted_table.name(wanted) +
                         ": half closed since the snapshot, or with bytes under way: kept as it is");
    return false;
  }
  if (socket.unread == living.unread) return true;
  const auto& sender = *wanted_table.as<Socket>(*peer);
  const bool ended = (sender.shutdown & 2) != 0;
  if (!ended && !is_set(sender, IPPROTO_TCP, TCP_CORK)) return true;
  part.refusal = fmt::format("it held {} unread bytes, which the other end cannot send again ({})",
                             model::bytes_of(socket.unread).size(), ended ? "it has shut down sending" : "TCP_CORK");
  return false;
}

void put_messages_right(std::size_t wanted, const Table& wanted_table, const Table& living_table,
                        const Matches& matches, SocketPart& part) {
  const auto& socket = *wanted_table.as<Socket>(wanted);
  const std::size_t living_index = *matches.living_of[wanted];
  const auto& living = *living_table.as<Socket>(living_index);
  if (leads_outside(socket) || socket.state == SocketState::hung_up) return;
  const bool tcp = socket.family != AF_UNIX && socket.peer_inode != 0;
  if (tcp && !can_send_again(wanted, wanted_table, living_table, matches, part)) return;
  if (same_content(socket, living, matches)) return;
  auto senders = senders_of(socket, wanted_table);
  if (!senders || !(tcp || can_be_refilled(socket, living))) {  // so it begins with what was unread: can_stay()
    part.notes.push_back(fmt::format("{}: {} datagrams that came since the snapshot stay unread; {}",
                                     wanted_table.name(wanted), living.unread.size() - socket.unread.size(),
                                     only_they_can_send(socket)));
    return;
  }
  part.rights.emplace_back(EmptySocket{wanted_table.at_home(wanted), wanted_table.file(wanted).status_flags});
  if (!socket.unread.empty()) part.contents.emplace_back(RefillSocket{wanted, living_index, std::move(*senders)});
}

}  // namespace

SocketPart put_right_socket(std::size_t wanted, const Table& wanted_table, const Table& living_table,
                            const Matches& matches) {
  const auto& socket = *wanted_table.as<Socket>(wanted);
  const auto& living = *living_table.as<Socket>(*matches.living_of[wanted]);
  if (model::is_addressed(socket)) return put_right_addressed(wanted, wanted_table, living_table, matches);
  SocketPart part;
  if (socket.state == SocketState::connected && living.state == SocketState::hung_up) {
    part.notes.push_back(wanted_table.name(wanted) +
                         ": the connection has ended since the snapshot and cannot come back");
  } else if (leads_outside(socket) && living.peer_inode != 0) {
    part.notes.push_back(wanted_table.name(wanted) +
                         ": waited to be accepted by the task itself; accepted since, it ends");
  } else if (leads_outside(socket)) {
    part.notes.push_back(wanted_table.name(wanted) + ": connection kept");
  }
  if (socket.file && socket.file->there && living.file && living.file->deleted)
    part.notes.push_back(wanted_table.name(wanted) + ": its name was deleted since the snapshot, and stays so");
  if (living.state == SocketState::hung_up && !is_datagram(socket)) return part;
  put_options_right(socket, living, living_table.numbers(*matches.living_of[wanted]).front(), part);
  if (socket.state == SocketState::listening && socket.backlog != living.backlog)
    part.rights.emplace_back(Listen{wanted_table.at_home(wanted), socket.backlog});
  put_messages_right(wanted, wanted_table, living_table, matches, part);
  return part;
}

namespace {

std::string messages_text(const Socket& wanted, const Socket& living) {
  if (wanted.type == SOCK_STREAM) return bytes_text(model::bytes_of(wanted.unread), model::bytes_of(living.unread));
  if (wanted.unread.size() == living.unread.size())
    return fmt::format("the {} unread messages are others", wanted.unread.size());
  return fmt::format("unread messages {} -> {}", wanted.unread.size(), living.unread.size());
}

}  // namespace

std::string bytes_text(const std::vector<std::byte>& wanted, const std::vector<std::byte>& living) {
  if (wanted.size() == living.size()) return fmt::format("the {} unread bytes are others", wanted.size());
  return fmt::format("unread bytes {} -> {}", wanted.size(), living.size());
}

std::vector<std::string> changes(const Socket& wanted, const Socket& living) {
  const bool addressed = model::is_addressed(wanted);
  std::vector<std::string> out;
  if (addressed) out = addressed_changes(wanted, living);
  if (!addressed && wanted.state != living.state) out.emplace_back("its peer has gone since");
  const bool told = addressed || (!leads_outside(wanted) &&
                                  (living.peer_inode != 0 || wanted.peer_inode == 0 || wanted.family == AF_UNIX));
  if (told && !look_like(wanted.unread, living.unread)) out.push_back(messages_text(wanted, living));
  if (living.state == SocketState::hung_up) return out;
  if (wanted.backlog != living.backlog) out.push_back(fmt::format("backlog {} -> {}", wanted.backlog, living.backlog));
  if (!leads_outside(wanted) && wanted.shutdown != living.shutdown) out.emplace_back("shut down since");
  const auto options = std::ranges::count_if(wanted.options, [&](const model::SocketOption& option) {
    return std::ranges::find(living.options, option) == living.options.end();
  });
  if (options != 0) out.push_back(fmt::format("{} socket option{} changed", options, options == 1 ? "" : "s"));
  return out;
}

}  // namespace relive::diff
