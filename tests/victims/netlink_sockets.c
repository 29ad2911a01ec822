// Netlink sockets: fresh, bound, connected, members of groups; options. Asked (with answers unread), closed, replaced,
// moved to other groups and connected elsewhere since.
#include "victim.h"

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

enum { kFresh, kBound, kGroups, kConnected, kGeneric, SOCKETS };
#define FD(i) (330 + (i))
static uint32_t ports[SOCKETS];

static int protocol(int i) {
  return i == kGeneric ? NETLINK_GENERIC : i == kConnected ? NETLINK_USERSOCK : NETLINK_ROUTE;
}
static bool member(int i, int group) {
  if (i != kGroups) return false;
  return group == RTNLGRP_LINK || group == RTNLGRP_NSID || (victim_state % 2 == 0 && group == RTNLGRP_IPV4_ROUTE);
}
static int belong(int i, int group, bool in) {
  return setsockopt(FD(i), SOL_NETLINK, in ? NETLINK_ADD_MEMBERSHIP : NETLINK_DROP_MEMBERSHIP, &group, sizeof group);
}
static void drain(int fd) {
  char buffer[8192];
  while (recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) >= 0 || errno == ENOBUFS) {
  }
}
static void ask(int fd) {
  struct {
    struct nlmsghdr header;
    struct rtgenmsg of;
  } request = {
      .header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
      .of = {.rtgen_family = AF_UNSPEC}};
  CHECK(send(fd, &request, sizeof request, 0) == (ssize_t)sizeof request, "asking: %s", strerror(errno));
}
static void set(unsigned state) {
  (void)state;
  for (int i = 0; i < SOCKETS; ++i) drain(FD(i));
  for (int group = 1; group <= RTNLGRP_NSID; ++group) belong(kGroups, group, member(kGroups, group));
}
static void open_at(int i) {
  const int fd = MUST(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol(i)));
  MUST(dup3(fd, FD(i), O_CLOEXEC));
  close(fd);
}
static void bind_at(int i, uint32_t port) {
  struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_pid = port};
  MUST(bind(FD(i), (struct sockaddr*)&address, sizeof address));
  socklen_t size = sizeof address;
  MUST(getsockname(FD(i), (struct sockaddr*)&address, &size));
  ports[i] = address.nl_pid;
}
static void make(void) {
  for (int i = 0; i < SOCKETS; ++i) {
    open_at(i);
    if (i != kFresh) bind_at(i, 0);
  }
  const int on = 1, bytes = 50000;
  MUST(setsockopt(FD(kFresh), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on));
  MUST(setsockopt(FD(kGroups), SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof on));
  MUST(setsockopt(FD(kBound), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes));
  const struct sockaddr_nl self = {.nl_family = AF_NETLINK, .nl_pid = ports[kConnected]};
  MUST(connect(FD(kConnected), (const struct sockaddr*)&self, sizeof self));
  set(0);
}
static int option(int i, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(FD(i), level, name, &value, &size) == 0 ? value : -1;
}
static void verify(void) {
  int open_ones[3 + SOCKETS] = {0, 1, 2};
  for (int i = 0; i < SOCKETS; ++i) {
    open_ones[3 + i] = FD(i);
    struct sockaddr_nl address = {0};
    socklen_t size = sizeof address;
    CHECK(getsockname(FD(i), (struct sockaddr*)&address, &size) == 0, "%d has no name", i);
    CHECK_EQUAL("port", address.nl_pid, ports[i]);
    char byte;
    CHECK(recv(FD(i), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN, "%d has something unread", i);
    uint32_t bits[4] = {0};
    size = sizeof bits;
    CHECK(getsockopt(FD(i), SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, bits, &size) == 0, "no list of groups");
    for (int group = 1; group <= 32; ++group)
      CHECK((bits[0] >> (group - 1) & 1) == member(i, group), "%d, group %d: member %d", i, group, !member(i, group));
  }
  check_descriptors(open_ones, 3 + SOCKETS);
  CHECK_EQUAL("NETLINK_EXT_ACK", option(kFresh, SOL_NETLINK, NETLINK_EXT_ACK), 1);
  CHECK_EQUAL("NETLINK_NO_ENOBUFS", option(kGroups, SOL_NETLINK, NETLINK_NO_ENOBUFS), 1);
  CHECK_EQUAL("SO_RCVBUF", option(kBound, SOL_SOCKET, SO_RCVBUF), 100000);
  struct sockaddr_nl peer = {0};
  socklen_t size = sizeof peer;
  CHECK(getpeername(FD(kConnected), (struct sockaddr*)&peer, &size) == 0 && peer.nl_pid == ports[kConnected],
        "the connected one is connected to %u", peer.nl_pid);
  ask(FD(kBound));  // it works
  char answer[32768];
  CHECK(recv(FD(kBound), answer, sizeof answer, 0) > 0, "no answer: %s", strerror(errno));
  drain(FD(kBound));
}
static void wreck(unsigned round) {
  ask(FD(kBound));
  const int off = 0;
  switch (round % 5) {
    case 0:
      belong(kGroups, RTNLGRP_LINK, false);
      belong(kGroups, RTNLGRP_NEIGH, true);
      belong(kBound, RTNLGRP_TC, true);
      setsockopt(FD(kGroups), SOL_NETLINK, NETLINK_NO_ENOBUFS, &off, sizeof off);
      break;
    case 1:
      for (int i = 0; i < SOCKETS; ++i) close(FD(i));
      break;
    case 2: {
      const struct sockaddr_nl elsewhere = {.nl_family = AF_NETLINK, .nl_pid = 77};
      MUST(connect(FD(kConnected), (const struct sockaddr*)&elsewhere, sizeof elsewhere));
      ask(FD(kFresh));  // this binds it
      close(FD(kGroups));
      MUST(dup2(FD(kBound), FD(kGroups)));
      break;
    }
    case 3: {
      const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
      MUST(connect(FD(kConnected), &nobody, sizeof nobody));
      close(FD(kBound));
      open_at(kBound);
      const uint32_t port = ports[kBound];
      bind_at(kBound, port);  // another one at the same port
      belong(kBound, RTNLGRP_LINK, true);
      break;
    }
    default:
      for (int i = 0; i < SOCKETS; ++i) MUST(dup2(0, FD(i)));
      MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set}); }
