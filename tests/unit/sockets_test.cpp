#include "diff/sockets.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

#include "capture/memberships.h"
#include "capture/sock_diag.h"
#include "tests/unit/texts.h"

namespace relive {
namespace {

using model::DescriptorTable;
using model::Message;
using model::OpenFile;
using model::RemoteFd;
using model::Socket;
using model::SocketState;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using ::testing::SizeIs;

std::vector<std::byte> name_of(std::string_view name) {
  std::vector<std::byte> address(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  const sa_family_t family = AF_UNIX;
  std::memcpy(address.data(), &family, sizeof family);
  std::memcpy(address.data() + offsetof(sockaddr_un, sun_path) + 1, name.data(), name.size());
  return address;
}
Message message(std::string_view text, std::vector<std::byte> from = {}) {
  const auto bytes = std::as_bytes(std::span(text));
  return {.bytes = {bytes.begin(), bytes.end()}, .from = std::move(from)};
}
Socket unix_socket(std::uint64_t inode, int type, SocketState state) {
  Socket socket;
  socket.inode = inode;
  socket.family = AF_UNIX;
  socket.type = type;
  socket.state = state;
  return socket;
}

// Descriptors 5, 6, ... of one socket each; `same` says which of a snapshot's they are.
DescriptorTable table_of(const std::vector<Socket>& sockets, bool same = false) {
  DescriptorTable table;
  for (std::size_t at = 0; at < sockets.size(); ++at) {
    OpenFile file{.status_flags = O_RDWR, .object = sockets[at]};
    if (same) file.same_as = at;
    table.open_files.push_back(std::move(file));
    table.descriptors.push_back({.fd = RemoteFd{static_cast<int>(5 + at)}, .open_file = at});
  }
  return table;
}
std::vector<Socket> pair(int type) {
  std::vector<Socket> ends{unix_socket(1, type, SocketState::connected), unix_socket(2, type, SocketState::connected)};
  ends[0].peer_inode = 2;
  ends[1].peer_inode = 1;
  return ends;
}

TEST(SocketPlanTest, WhatWasReadSinceIsSentAgainInPlace) {
  auto wanted = pair(SOCK_SEQPACKET);
  const auto living = wanted;
  wanted[0].unread = {message("one"), message("two")};
  const auto plan = diff::plan_descriptors(table_of(wanted), table_of(living, true));
  EXPECT_THAT(plan.refusals, IsEmpty());
  EXPECT_THAT(texts(plan),
              ElementsAre("socket 5: drop its unread messages", "socket of file 0: put its unread messages back"));
  ASSERT_THAT(plan.differences, SizeIs(1));
  EXPECT_EQ(plan.differences[0].text, "unread messages 2 -> 0");
}

TEST(SocketPlanTest, BoundariesAreADifference) {
  auto wanted = pair(SOCK_DGRAM);
  auto living = wanted;
  wanted[0].unread = {message("one"), message("two")};
  living[0].unread = {message("on"), message("etwo")};
  const auto plan = diff::plan_descriptors(table_of(wanted), table_of(living, true));
  ASSERT_THAT(plan.differences, SizeIs(1));
  EXPECT_EQ(plan.differences[0].text, "the 2 unread messages are others");
}

TEST(SocketPlanTest, APairThatWasShutDownIsMadeAnewWhole) {
  const auto wanted = pair(SOCK_SEQPACKET);
  auto living = wanted;
  living[0].shutdown = 3;
  living[1].shutdown = 3;
  EXPECT_THAT(texts(diff::plan_descriptors(table_of(wanted), table_of(living, true))),
              Contains("make a socket pair: files 0 and 1"));
}

TEST(SocketPlanTest, WhatIsTooMuchToPutBackInPlaceGoesIntoANewPair) {
  auto wanted = pair(SOCK_STREAM);
  const auto living = wanted;
  wanted[0].unread = {message(std::string(100'000, 'x'))};
  EXPECT_THAT(texts(diff::plan_descriptors(table_of(wanted), table_of(living, true))),
              Contains("make a socket pair: files 0 and 1"));
}

TEST(SocketPlanTest, OneThatSendsToAnotherFollowsItWhenThatIsMadeAnew) {
  std::vector<Socket> wanted{unix_socket(1, SOCK_DGRAM, SocketState::connected),
                             unix_socket(2, SOCK_DGRAM, SocketState::bound)};
  wanted[0].peer_inode = 2;
  wanted[0].peer = wanted[1].local = name_of("there");
  auto living = table_of(wanted, true);
  living.descriptors.pop_back();  // the receiver was closed
  living.open_files.pop_back();
  std::get<Socket>(living.open_files[0].object).peer_inode = 0;
  std::get<Socket>(living.open_files[0].object).state = SocketState::hung_up;
  const auto plan = diff::plan_descriptors(table_of(wanted), living);
  EXPECT_THAT(plan.refusals, IsEmpty());
  EXPECT_THAT(texts(plan), Contains("make a socket: file 0"));
  EXPECT_THAT(texts(plan), Contains("make a socket: file 1"));
  EXPECT_THAT(texts(plan), Contains("connect the new socket of file 0"));
}

TEST(SocketPlanTest, ADatagramFromOutsideStaysOrIsRefused) {
  std::vector<Socket> wanted{unix_socket(1, SOCK_DGRAM, SocketState::bound)};
  wanted[0].local = name_of("here");
  wanted[0].unread = {message("one", name_of("outside"))};
  auto living = wanted;
  living[0].unread.push_back(message("two", name_of("outside")));
  const auto kept = diff::plan_descriptors(table_of(wanted), table_of(living, true));
  EXPECT_THAT(kept.refusals, IsEmpty());
  EXPECT_THAT(kept.operations, IsEmpty());
  EXPECT_THAT(kept.notes, ElementsAre(HasSubstr("1 datagrams that came since the snapshot stay unread")));

  living[0].unread.clear();
  const auto refused = diff::plan_descriptors(table_of(wanted), table_of(living, true));
  ASSERT_THAT(refused.refusals, SizeIs(1));
  EXPECT_THAT(refused.refusals[0].reason, HasSubstr("only its sender (@outside) can send again"));
}

TEST(SocketPlanTest, ADatagramIsSentAgainByWhoSentIt) {
  std::vector<Socket> wanted{unix_socket(1, SOCK_DGRAM, SocketState::bound),
                             unix_socket(2, SOCK_DGRAM, SocketState::bound)};
  wanted[0].local = name_of("here");
  wanted[1].local = name_of("there");
  wanted[0].unread = {message("one", name_of("there")), message("two")};
  auto living = wanted;
  living[0].unread.clear();
  const auto plan = diff::plan_descriptors(table_of(wanted), table_of(living, true));
  const auto refill = std::ranges::find_if(
      plan.operations, [](const auto& operation) { return std::holds_alternative<diff::RefillSocket>(operation); });
  ASSERT_NE(refill, plan.operations.end());
  EXPECT_THAT(std::get<diff::RefillSocket>(*refill).senders,
              ElementsAre(std::optional<std::size_t>(1), std::optional<std::size_t>()));
}

// --- UDP

std::vector<std::byte> at(std::uint16_t port, std::uint32_t host = INADDR_LOOPBACK) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(host);
  const auto bytes = std::as_bytes(std::span(&address, 1));
  return {bytes.begin(), bytes.end()};
}
Socket udp_socket(std::uint64_t inode, std::vector<std::byte> local, std::vector<std::byte> peer = {}) {
  Socket socket;
  socket.inode = inode;
  socket.family = AF_INET;
  socket.type = SOCK_DGRAM;
  socket.protocol = IPPROTO_UDP;
  socket.state = !peer.empty() ? SocketState::connected : local.empty() ? SocketState::fresh : SocketState::bound;
  socket.local = std::move(local);
  socket.peer = std::move(peer);
  return socket;
}
model::SocketOption on(int level, int name) {
  return {.level = level, .name = name, .value = {std::byte{1}, std::byte{0}, std::byte{0}, std::byte{0}}};
}

TEST(SocketPlanTest, DatagramsThatCameSinceAreThrownAway) {
  const std::vector<Socket> wanted{udp_socket(1, at(70))};
  auto living = wanted;
  living[0].unread = {message("since", at(80))};
  EXPECT_THAT(texts(diff::plan_descriptors(table_of(wanted), table_of(living, true))),
              ElementsAre("socket 5: drop its unread messages"));
}

TEST(SocketPlanTest, ADatagramIsSentAgainByTheTasksOwnSocket) {
  std::vector<Socket> wanted{udp_socket(1, at(70)), udp_socket(2, at(80, INADDR_ANY))};
  wanted[0].unread = {message("one", at(80))};
  auto living = wanted;
  living[0].unread.clear();
  EXPECT_THAT(texts(diff::plan_descriptors(table_of(wanted), table_of(living, true))),
              ElementsAre("socket 5: drop its unread messages", "socket of file 0: put its unread messages back"));

  for (const auto& option : {on(IPPROTO_UDP, 1 /* UDP_CORK */), on(SOL_SOCKET, SO_BINDTODEVICE)}) {
    auto barred = wanted;
    barred[1].options = {option};
    auto now = living;
    now[1].options = {option};
    const auto plan = diff::plan_descriptors(table_of(barred), table_of(now, true));
    ASSERT_THAT(plan.refusals, SizeIs(1));
    EXPECT_THAT(plan.refusals[0].reason, HasSubstr("from 127.0.0.1:80"));
  }
}

// The receiver and its sender are put right in one table, which gets a number of the one that it does not have.
TEST(SocketPlanTest, ADatagramIsSentAgainFromAnotherTable) {
  const std::vector<model::Pid> tasks{{100}, {200}};
  std::vector<Socket> sockets{udp_socket(1, at(70)), udp_socket(2, at(80))};
  sockets[0].unread = {message("one", at(80))};
  auto wanted = table_of(sockets);
  wanted.descriptors[1].fd.table = 1;
  sockets[0].unread.clear();
  auto living = table_of(sockets, true);
  living.descriptors[1].fd.table = 1;
  const auto plan = diff::plan_descriptors(wanted, living, tasks);
  EXPECT_THAT(plan.refusals, IsEmpty());
  EXPECT_THAT(plan.homes, ElementsAre(0, 0));
  EXPECT_THAT(texts(plan),
              ElementsAre("task 100: give it a number of file 1", "task 100: socket 5: drop its unread messages",
                          "task 100: socket of file 0: put its unread messages back"));

  // The receiver is made anew: beside its sender, where it has no number of its own.
  living.descriptors.erase(living.descriptors.begin());
  wanted.descriptors[0].fd = RemoteFd{.value = 5, .table = 1};
  wanted.descriptors[1].fd = RemoteFd{.value = 6, .table = 0};
  std::swap(wanted.descriptors[0], wanted.descriptors[1]);
  living.open_files.erase(living.open_files.begin());
  living.descriptors[0] = {.fd = RemoteFd{.value = 6, .table = 0}, .open_file = 0};
  const auto anew = diff::plan_descriptors(wanted, living, tasks);
  EXPECT_THAT(anew.refusals, IsEmpty());
  EXPECT_THAT(anew.homes, ElementsAre(0, 0));
  EXPECT_THAT(texts(anew), IsSupersetOf({"task 100: make a socket: file 0", "task 200: give it a number of file 0",
                                         "task 100: new socket of file 0: put its unread messages back",
                                         "task 200: descriptor 5: file 0"}));
}

// Of options and addresses: where the living one has its number.
TEST(SocketPlanTest, ADatagramSocketOfTwoTablesIsMovedBackOnce) {
  const std::vector<model::Pid> tasks{{100}, {200}};
  auto wanted = table_of({udp_socket(1, at(70, INADDR_ANY))});
  auto living = table_of({udp_socket(1, at(70), at(90))}, true);
  for (DescriptorTable* const table : {&wanted, &living})
    table->descriptors.push_back({.fd = RemoteFd{.value = 5, .table = 1}, .open_file = 0});
  EXPECT_THAT(texts(diff::plan_descriptors(wanted, living, tasks)),
              ElementsAre("task 100: socket 5: bind and connect it as it was"));
  living.descriptors.erase(living.descriptors.begin());
  EXPECT_THAT(texts(diff::plan_descriptors(wanted, living, tasks)),
              IsSupersetOf({"task 200: socket 5: bind and connect it as it was"}));
}

TEST(SocketPlanTest, NobodySendsToAGroupAgain) {
  std::vector<Socket> wanted{udp_socket(1, at(70, 0xef010101)), udp_socket(2, at(80))};
  wanted[0].unread = {message("one", at(80))};
  auto living = wanted;
  living[0].unread.clear();
  EXPECT_THAT(diff::plan_descriptors(table_of(wanted), table_of(living, true)).refusals, SizeIs(1));
}

TEST(SocketPlanTest, ADatagramSocketThatWasConnectedSinceIsMovedBack) {
  const std::vector<Socket> wanted{udp_socket(1, at(70, INADDR_ANY))};
  const std::vector<Socket> living{udp_socket(1, at(70), at(90))};
  EXPECT_THAT(texts(diff::plan_descriptors(table_of(wanted), table_of(living, true))),
              ElementsAre("socket 5: bind and connect it as it was"));
}

TEST(SocketPlanTest, ADatagramSocketBoundOrShutDownSinceIsMadeAnew) {
  EXPECT_THAT(texts(diff::plan_descriptors(table_of({udp_socket(1, {})}), table_of({udp_socket(1, at(70))}, true))),
              Contains("make a socket: file 0"));
  std::vector<Socket> living{udp_socket(1, at(70))};
  living[0].shutdown = 1;
  EXPECT_THAT(texts(diff::plan_descriptors(table_of({udp_socket(1, at(70))}), table_of(living, true))),
              Contains("make a socket: file 0"));
}

TEST(SocketPlanTest, GroupsAreLeftJoinedAndFilteredInPlace) {
  const auto group = [](std::uint8_t last) {
    return model::Membership{.level = IPPROTO_IP,
                             .group = std::vector<std::byte>(sizeof(group_req), std::byte{last}),
                             .excludes = true,
                             .sources = {}};
  };
  std::vector<Socket> wanted{udp_socket(1, at(70))};
  auto living = wanted;
  wanted[0].memberships = {group(1), group(2)};
  living[0].memberships = {group(2), group(3)};
  living[0].memberships[0].sources = {std::vector<std::byte>(sizeof(sockaddr_storage))};
  const auto plan = diff::plan_descriptors(table_of(wanted), table_of(living, true));
  std::vector<std::pair<int, std::vector<int>>> steps;  // option, and those that take it back
  for (const auto& operation : plan.operations) {
    const auto& set = std::get<diff::SetOption>(operation);
    auto& back = steps.emplace_back(set.option.name, std::vector<int>{}).second;
    for (const auto& option : set.back) back.push_back(option.name);
  }
  EXPECT_THAT(steps, ElementsAre(std::pair{MCAST_LEAVE_GROUP, std::vector{MCAST_JOIN_GROUP}},
                                 std::pair{MCAST_JOIN_GROUP, std::vector{MCAST_LEAVE_GROUP}},
                                 std::pair{MCAST_MSFILTER, std::vector{MCAST_MSFILTER}}));
  EXPECT_THAT(plan.differences, Contains(::testing::Field(&diff::Difference::text, "its groups are others")));
}

TEST(MembershipTest, ListsOfGroupsAreParsed) {
  constexpr std::string_view kIgmp =
      "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
      "1\tlo        :     2      V3\n"
      "\t\t\t\t010801EF     1 0:00000000\t\t0\n"
      "\t\t\t\t010000E0     1 0:00000000\t\t0\n"
      "12\teth0      :     1      V3\n"
      "\t\t\t\t010000E0     1 0:00000000\t\t0\n";
  const auto four = capture::parse_igmp(kIgmp);
  ASSERT_THAT(four, SizeIs(3));
  group_req request{};
  std::memcpy(&request, four[2].group.data(), sizeof request);
  EXPECT_EQ(request.gr_interface, 12U);
  std::memcpy(&request, four[0].group.data(), sizeof request);
  EXPECT_EQ(request.gr_interface, 1U);
  EXPECT_EQ(reinterpret_cast<const sockaddr_in*>(&request.gr_group)->sin_addr.s_addr, htonl(0xef010801));

  const auto six = capture::parse_igmp6("3    eth0            ff02000000000000000000000000000a     1 0000000C 0\nx\n");
  ASSERT_THAT(six, SizeIs(1));
  std::memcpy(&request, six[0].group.data(), sizeof request);
  EXPECT_EQ(request.gr_interface, 3U);
  EXPECT_EQ(reinterpret_cast<const sockaddr_in6*>(&request.gr_group)->sin6_addr.s6_addr[15], 10);
  for (const std::string_view odd : {"", "\n", "\t\n", "header\n\t\t\tGG\n", "header\n1\n\t\t\t"})
    EXPECT_THAT(capture::parse_igmp(odd), IsEmpty());
}

TEST(SocketPlanTest, WhoHasShutDownSendsNothingAgain) {
  auto wanted = pair(SOCK_STREAM);
  for (Socket& socket : wanted) {
    socket.family = AF_INET;
    socket.protocol = IPPROTO_TCP;
  }
  wanted[0].local = wanted[1].peer = at(70);
  wanted[0].peer = wanted[1].local = at(80);
  wanted[0].shutdown = 2;
  wanted[1].shutdown = 1;
  wanted[0].unread = {message("one")};
  auto living = wanted;
  living[0].unread.clear();
  EXPECT_THAT(texts(diff::plan_descriptors(table_of(wanted), table_of(living, true))),
              ElementsAre("socket 5: drop its unread messages", "socket of file 0: put its unread messages back"));
  wanted[1].unread = {message("two")};
  const auto refused = diff::plan_descriptors(table_of(wanted), table_of(living, true));
  ASSERT_THAT(refused.refusals, SizeIs(1));
  EXPECT_THAT(refused.refusals[0].reason, HasSubstr("it has shut down sending"));

  living[0].shutdown = living[1].shutdown = 0;
  EXPECT_THAT(diff::plan_descriptors(table_of(wanted), table_of(living, true)).notes,
              Contains(HasSubstr("half closed since")));
}

TEST(SocketPlanTest, APacketSocketBoundElsewhereIsMadeAnew) {
  Socket packet;
  packet.inode = 1;
  packet.family = AF_PACKET;
  packet.type = SOCK_RAW;
  packet.state = SocketState::bound;
  packet.local = std::vector<std::byte>(20, std::byte{1});
  Socket elsewhere = packet;
  elsewhere.local.back() = std::byte{2};
  EXPECT_THAT(texts(diff::plan_descriptors(table_of({packet}), table_of({elsewhere}, true))),
              Contains("make a socket: file 0"));
  Socket filtered = packet;
  filtered.options = {{.level = SOL_SOCKET, .name = SO_ATTACH_FILTER, .value = std::vector<std::byte>(8)}};
  packet.options = {{.level = SOL_SOCKET, .name = SO_ATTACH_FILTER, .value = {}}};
  EXPECT_THAT(texts(diff::plan_descriptors(table_of({packet}), table_of({filtered}, true))),
              ElementsAre("socket 5: option 1/26"));
}

TEST(SocketPlanTest, APacketSocketMayJoinAGroupTwice) {
  Socket packet;
  packet.inode = 1;
  packet.family = AF_PACKET;
  packet.type = SOCK_RAW;
  Socket living = packet;
  const model::Membership group{.level = SOL_PACKET, .group = std::vector<std::byte>(16)};
  packet.memberships = {group, group};
  living.memberships = {group};
  EXPECT_THAT(texts(diff::plan_descriptors(table_of({packet}), table_of({living}, true))),
              ElementsAre("socket 5: option 263/1"));  // PACKET_ADD_MEMBERSHIP
  EXPECT_THAT(texts(diff::plan_descriptors(table_of({living}), table_of({packet}, true))),
              ElementsAre("socket 5: option 263/2"));  // PACKET_DROP_MEMBERSHIP
}

TEST(RawSocketTest, ConnectedOnesAreParsed) {
  const auto found = capture::parse_connected_raw(
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer\n"
      "   1: 0100007F:0001 0200007F:0000 01 00000000:00000000 00:00000000 00000000     0        0 4711 2 00 0\n"
      "   1: 0100007F:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 00 0\n"
      "  58: 00000000000000000000000001000000:003A 00000000000000000000000001000000:0000 01 0:0 00:0 0 0 0 4713 2\n");
  ASSERT_THAT(found, SizeIs(2));
  EXPECT_EQ(found[0].inode, 4711U);
  EXPECT_EQ(model::address_text(found[0].peer), "127.0.0.2:0");
  EXPECT_EQ(model::address_text(found[1].peer), "[::1]:0");
  EXPECT_THAT(capture::parse_connected_raw("1: 2 3 01\n\n1: 0 zz:0 01 0 0 0 0 0 x\n"), IsEmpty());
}

TEST(SocketPlanTest, WhoWaitedToBeAcceptedByTheTaskItselfIsTold) {
  std::vector<Socket> wanted{unix_socket(1, SOCK_STREAM, SocketState::connected)};
  auto living = pair(SOCK_STREAM);
  auto now = table_of(living, true);
  now.open_files[1].same_as.reset();
  EXPECT_THAT(diff::plan_descriptors(table_of(wanted), now).notes, ElementsAre(HasSubstr("waited to be accepted")));
}

}  // namespace
}  // namespace relive
