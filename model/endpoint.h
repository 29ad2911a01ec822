// An address of the internet families in one form: IPv4 as IPv6 writes it (::ffff:a.b.c.d).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace relive::model {

struct Endpoint {
  std::array<std::byte, 16> address{};
  std::uint16_t port = 0;
  std::uint32_t scope = 0;  // the interface of a link-local address
  [[nodiscard]] bool is_ipv4() const;
  [[nodiscard]] bool is_any() const;
  [[nodiscard]] bool is_multicast() const;
  [[nodiscard]] bool same_address(const Endpoint& other) const { return address == other.address; }
  bool operator==(const Endpoint& other) const { return address == other.address && port == other.port; }
};

// Of a sockaddr; nothing where it is of another family.
[[nodiscard]] std::optional<Endpoint> endpoint_of(std::span<const std::byte> address);
// As a sockaddr of this family. REQUIRES: `endpoint` is IPv4 where the family is AF_INET.
[[nodiscard]] std::vector<std::byte> address_for(int family, const Endpoint& endpoint);

}  // namespace relive::model
