#include "apply/repaired_pair.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <string>

namespace relive {
namespace {

struct Ends {
  UniqueFd listener, client, server;
};

template <class Call>
std::vector<std::byte> address(int socket, Call call) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  EXPECT_EQ(call(socket, reinterpret_cast<sockaddr*>(&storage), &size), 0);
  const auto* const bytes = reinterpret_cast<const std::byte*>(&storage);
  return {bytes, bytes + size};
}
model::Socket model_of(int socket, int family, std::string_view unread) {
  const auto bytes = std::as_bytes(std::span(unread));
  model::Socket made;
  made.family = family;
  made.state = model::SocketState::connected;
  made.local = address(socket, [](int s, sockaddr* a, socklen_t* n) { return ::getsockname(s, a, n); });
  made.peer = address(socket, [](int s, sockaddr* a, socklen_t* n) { return ::getpeername(s, a, n); });
  made.unread = {{.bytes = {bytes.begin(), bytes.end()}, .from = {}}};
  return made;
}
Ends connect_over_loopback(int family) {
  Ends ends{.listener = UniqueFd(::socket(family, SOCK_STREAM, 0)),
            .client = UniqueFd(::socket(family, SOCK_STREAM, 0)),
            .server = {}};
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_addr = in6addr_loopback;
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const any = family == AF_INET6 ? reinterpret_cast<sockaddr*>(&six) : reinterpret_cast<sockaddr*>(&four);
  socklen_t size = family == AF_INET6 ? sizeof six : sizeof four;
  if (::bind(ends.listener.get(), any, size) != 0 || ::listen(ends.listener.get(), 1) != 0) return {};
  ::getsockname(ends.listener.get(), any, &size);
  if (::connect(ends.client.get(), any, size) != 0) return {};
  ends.server.reset(::accept(ends.listener.get(), nullptr, nullptr));
  return ends;
}
std::string read_from(int socket, std::size_t bytes) {
  std::string text(bytes, '\0');
  for (std::size_t got = 0; got < bytes;) {
    const ssize_t n = ::recv(socket, text.data() + got, bytes - got, 0);
    if (n <= 0) return "ended";
    got += static_cast<std::size_t>(n);
  }
  return text;
}

Result<void> no_options(int, const model::Socket&) { return {}; }

class RepairedPairTest : public ::testing::TestWithParam<int> {};

TEST_P(RepairedPairTest, TalksAsTheOldOneDid) {
  const int family = GetParam();
  Ends ends = connect_over_loopback(family);
  if (family == AF_INET6 && !ends.server) GTEST_SKIP() << "needs IPv6: no loopback address";
  ASSERT_TRUE(ends.server);
  const std::string large(30000, 'x');
  const auto client = model_of(ends.client.get(), family, "for the client");
  const auto server = model_of(ends.server.get(), family, large);
  ends.client.reset();
  ends.server.reset();  // the listener still listens

  auto pair = apply::make_repaired_pair(client, server, no_options);
  if (!pair && pair.error().kind == ErrorKind::permission) GTEST_SKIP() << "needs CAP_NET_ADMIN: TCP repair";
  ASSERT_TRUE(pair.has_value()) << pair.error().text();
  EXPECT_EQ(read_from(pair->first.get(), 14), "for the client");
  EXPECT_EQ(read_from(pair->second.get(), large.size()), large);
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(::send(pair->first.get(), "there", 5, 0), 5);
    EXPECT_EQ(read_from(pair->second.get(), 5), "there");
    ASSERT_EQ(::send(pair->second.get(), "back", 4, 0), 4);
    EXPECT_EQ(read_from(pair->first.get(), 4), "back");
  }
  const auto now = model_of(pair->first.get(), family, "for the client");
  EXPECT_EQ(now.local, client.local);
  EXPECT_EQ(now.peer, client.peer);
  pair->second.reset();
  char byte = 0;
  EXPECT_EQ(::recv(pair->first.get(), &byte, 1, 0), 0) << "the end is not seen";
}

TEST_P(RepairedPairTest, IsRefusedWhereTheAddressesAreTaken) {
  const int family = GetParam();
  const Ends ends = connect_over_loopback(family);
  if (family == AF_INET6 && !ends.server) GTEST_SKIP() << "needs IPv6: no loopback address";
  const auto client = model_of(ends.client.get(), family, "");
  const auto server = model_of(ends.server.get(), family, "");
  const auto pair = apply::make_repaired_pair(client, server, no_options);
  ASSERT_FALSE(pair.has_value());
  if (pair.error().kind == ErrorKind::permission) GTEST_SKIP() << "needs CAP_NET_ADMIN: TCP repair";
  EXPECT_EQ(pair.error().kind, ErrorKind::refused) << pair.error().text();
}

INSTANTIATE_TEST_SUITE_P(Families, RepairedPairTest, ::testing::Values(AF_INET, AF_INET6),
                         [](const auto& instance) { return instance.param == AF_INET ? "IPv4" : "IPv6"; });

}  // namespace
}  // namespace relive
