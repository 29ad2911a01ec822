#include "diff/socket_options.h"

#include <netinet/in.h>

#include <algorithm>
#include <cstring>

namespace relive::diff {

namespace {

// What certainly fits into an empty socket with buffers of the kernel's own size (net.core.wmem_default).
constexpr std::size_t kCertainlyFits = std::size_t{64} << 10;
constexpr std::size_t kCostOfMessage = 1280;  // beside its bytes, which may be rounded up to twice as many

}  // namespace

const model::SocketOption* find_option(const model::Socket& socket, int level, int name) {
  const auto found = std::ranges::find_if(
      socket.options, [&](const model::SocketOption& option) { return option.level == level && option.name == name; });
  return found == socket.options.end() ? nullptr : &*found;
}

int integer(const model::Socket& socket, int level, int name) {
  int value = 0;
  const model::SocketOption* const option = find_option(socket, level, name);
  if (option != nullptr && option->value.size() >= sizeof value)
    std::memcpy(&value, option->value.data(), sizeof value);
  return value;
}

bool is_set(const model::Socket& socket, int level, int name) {
  const model::SocketOption* const option = find_option(socket, level, name);
  return option != nullptr && std::ranges::any_of(option->value, [](std::byte byte) { return byte != std::byte{0}; });
}

bool same_option(const model::Socket& one, const model::Socket& other, int level, int name) {
  const model::SocketOption* const a = find_option(one, level, name);
  const model::SocketOption* const b = find_option(other, level, name);
  return a == nullptr || b == nullptr ? a == b : a->value == b->value;
}

bool certainly_fits(const model::Socket& socket) {
  std::size_t bytes = 0;
  for (const model::Message& message : socket.unread) bytes += 2 * message.bytes.size() + kCostOfMessage;
  if (bytes == 0 || socket.family == AF_UNIX) return bytes <= kCertainlyFits;
  const auto own = static_cast<std::size_t>(integer(socket, SOL_SOCKET, SO_RCVBUF));  // the kernel doubles it
  return bytes <= (own == 0 ? kCertainlyFits : std::min(kCertainlyFits, 2 * own));
}

void put_options_right(const model::Socket& wanted, const model::Socket& living, model::RemoteFd from,
                       SocketPart& part) {
  for (const model::SocketOption& option : wanted.options) {
    const model::SocketOption* const now = find_option(living, option.level, option.name);
    if (now != nullptr && now->value == option.value) continue;
    SetOption set{.from = from, .option = option, .back = {}};
    if (now != nullptr) set.back.push_back(*now);
    part.made.emplace_back(std::move(set));
  }
}

}  // namespace relive::diff
