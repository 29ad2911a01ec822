#include "model/endpoint.h"

#include <netinet/in.h>

#include <algorithm>
#include <cstring>

namespace relive::model {

namespace {

constexpr std::array<std::byte, 12> kMapped{std::byte{0}, std::byte{0}, std::byte{0},    std::byte{0},
                                            std::byte{0}, std::byte{0}, std::byte{0},    std::byte{0},
                                            std::byte{0}, std::byte{0}, std::byte{0xff}, std::byte{0xff}};

template <class Address>
std::vector<std::byte> bytes_of(const Address& address) {
  const auto bytes = std::as_bytes(std::span(&address, 1));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

bool Endpoint::is_ipv4() const { return std::equal(kMapped.begin(), kMapped.end(), address.begin()); }

bool Endpoint::is_any() const {
  const auto from = is_ipv4() ? address.begin() + kMapped.size() : address.begin();
  return std::all_of(from, address.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

bool Endpoint::is_multicast() const {
  if (!is_ipv4()) return address[0] == std::byte{0xff};
  return (address[kMapped.size()] & std::byte{0xf0}) == std::byte{0xe0};
}

std::optional<Endpoint> endpoint_of(std::span<const std::byte> address) {
  Endpoint endpoint;
  sa_family_t family = AF_UNSPEC;
  if (address.size() >= sizeof family) std::memcpy(&family, address.data(), sizeof family);
  if (family == AF_INET && address.size() >= sizeof(sockaddr_in)) {
    sockaddr_in in{};
    std::memcpy(&in, address.data(), sizeof in);
    std::ranges::copy(kMapped, endpoint.address.begin());
    std::memcpy(endpoint.address.data() + kMapped.size(), &in.sin_addr, sizeof in.sin_addr);
    endpoint.port = ntohs(in.sin_port);
    return endpoint;
  }
  if (family == AF_INET6 && address.size() >= sizeof(sockaddr_in6)) {
    sockaddr_in6 in{};
    std::memcpy(&in, address.data(), sizeof in);
    std::memcpy(endpoint.address.data(), &in.sin6_addr, sizeof in.sin6_addr);
    endpoint.port = ntohs(in.sin6_port);
    endpoint.scope = in.sin6_scope_id;
    return endpoint;
  }
  return std::nullopt;
}

std::vector<std::byte> address_for(int family, const Endpoint& endpoint) {
  if (family == AF_INET) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(endpoint.port);
    std::memcpy(&in.sin_addr, endpoint.address.data() + kMapped.size(), sizeof in.sin_addr);
    return bytes_of(in);
  }
  sockaddr_in6 in{};
  in.sin6_family = AF_INET6;
  in.sin6_port = htons(endpoint.port);
  in.sin6_scope_id = endpoint.scope;
  std::memcpy(&in.sin6_addr, endpoint.address.data(), sizeof in.sin6_addr);
  return bytes_of(in);
}

}  // namespace relive::model
