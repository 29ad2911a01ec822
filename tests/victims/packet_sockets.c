// Packet and raw sockets on the loopback device: protocol and device, filters, groups, options, addresses. Unbound
// elsewhere, filtered otherwise, closed and replaced since; frames that came since are dropped.
#include "victim.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <sys/socket.h>

#ifndef ICMP_FILTER
#define ICMP_FILTER 1
#endif

// Nothing comes to these by itself: a protocol of their own, a filter that lets nothing pass, ICMP types that nobody
// sends.
enum { kPacket, kCooked, kFresh, kEcho, kHeader, kSix, SOCKETS };
enum { kSender = 350 };
#define FD(i) (340 + (i))
enum { kProtocol = 0x88b5 };  // for local experiments (IEEE 802)

static int opened(int i) {
  switch (i) {
    case kPacket:
    case kFresh:
      return socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    case kCooked:
      return socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    case kEcho:
      return socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
    case kHeader:
      return socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    default:
      return socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMPV6);
  }
}
static void open_at(int i) {
  const int fd = MUST(opened(i));
  MUST(dup3(fd, FD(i), O_CLOEXEC));
  close(fd);
}
static struct sockaddr_ll link_address(int protocol) {
  return (struct sockaddr_ll){
      .sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = (int)if_nametoindex("lo")};
}
static struct packet_mreq group(uint8_t last) {
  return (struct packet_mreq){.mr_ifindex = (int)if_nametoindex("lo"),
                              .mr_type = PACKET_MR_MULTICAST,
                              .mr_alen = 6,
                              .mr_address = {0x01, 0x00, 0x5e, 0x01, 0x02, last}};
}
static void belong(uint8_t last, bool in) {
  const struct packet_mreq request = group(last);
  setsockopt(FD(kPacket), SOL_PACKET, in ? PACKET_ADD_MEMBERSHIP : PACKET_DROP_MEMBERSHIP, &request, sizeof request);
}
// Lets pass what has the byte, or nothing.
static void filter(int i, uint32_t byte) {
  struct sock_filter code[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 20), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, byte, 0, 1),
                               BPF_STMT(BPF_RET | BPF_K, ~0U), BPF_STMT(BPF_RET | BPF_K, 0)};
  const struct sock_fprog program = {.len = 4, .filter = code};
  MUST(setsockopt(FD(i), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
}
static uint32_t filtered(int i) {
  struct sock_filter code[16];
  socklen_t count = 16;
  if (getsockopt(FD(i), SOL_SOCKET, SO_GET_FILTER, code, &count) != 0 || count != 4) return 0;
  return code[1].k;
}
static void drain(int fd) {
  char buffer[2048];
  while (recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) >= 0) {
  }
}
static void send_frame(int protocol) {
  const struct sockaddr_ll to = link_address(protocol);
  struct {
    struct ethhdr header;
    unsigned char payload[46];
  } frame = {.header = {.h_proto = htons(protocol)}};
  frame.payload[6] = 42;  // byte 20
  CHECK(sendto(kSender, &frame, sizeof frame, 0, (const struct sockaddr*)&to, sizeof to) == (ssize_t)sizeof frame,
        "sending a frame: %s", strerror(errno));
}
static void set(unsigned state) {
  belong(7, state % 2 == 0);
  filter(kPacket, 42 + state);
}
static void make(void) {
  for (int i = 0; i < SOCKETS; ++i) {
    const int probe = opened(i);
    if (probe < 0)
      victim_skip(i == kSix && errno != EPERM ? "needs IPv6: a raw socket" : "needs CAP_NET_RAW: raw sockets");
    close(probe);
    open_at(i);
  }
  const int fd = MUST(socket(AF_PACKET, SOCK_RAW, 0));
  MUST(dup2(fd, kSender));
  close(fd);
  struct sockaddr_ll here = link_address(kProtocol);
  filter(kPacket, 42);
  MUST(bind(FD(kPacket), (struct sockaddr*)&here, sizeof here));
  here = link_address(kProtocol + 1);
  MUST(bind(FD(kCooked), (struct sockaddr*)&here, sizeof here));
  const int on = 1;
  MUST(setsockopt(FD(kPacket), SOL_PACKET, PACKET_AUXDATA, &on, sizeof on));
  MUST(setsockopt(FD(kCooked), SOL_SOCKET, SO_RCVBUF, &(int){60000}, sizeof(int)));
  const uint32_t all = ~0U;
  MUST(setsockopt(FD(kEcho), SOL_RAW, ICMP_FILTER, &all, sizeof all));
  struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  MUST(bind(FD(kEcho), (struct sockaddr*)&loopback, sizeof loopback));
  MUST(connect(FD(kEcho), (struct sockaddr*)&loopback, sizeof loopback));
  struct icmp6_filter none;
  ICMP6_FILTER_SETBLOCKALL(&none);
  MUST(setsockopt(FD(kSix), IPPROTO_ICMPV6, ICMP6_FILTER, &none, sizeof none));
  set(0);
}
static void verify(void) {
  int open_ones[4 + SOCKETS] = {0, 1, 2, kSender};
  for (int i = 0; i < SOCKETS; ++i) open_ones[4 + i] = FD(i);
  check_descriptors(open_ones, 4 + SOCKETS);
  for (int i = 0; i < SOCKETS; ++i) {
    char byte;
    CHECK(recv(FD(i), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN, "%d has something unread", i);
  }
  for (int i = 0; i < kEcho; ++i) {
    struct sockaddr_ll here = {0};
    socklen_t size = sizeof here;
    CHECK(getsockname(FD(i), (struct sockaddr*)&here, &size) == 0, "no name");
    CHECK_EQUAL("protocol", ntohs(here.sll_protocol), i == kFresh ? 0 : kProtocol + (i == kCooked));
    CHECK_EQUAL("device", here.sll_ifindex, i == kFresh ? 0 : (int)if_nametoindex("lo"));
  }
  CHECK_EQUAL("filter", filtered(kPacket), 42 + victim_state);
  CHECK_EQUAL("filter", filtered(kCooked), 0);
  char text[4096] = "";
  read_text("/proc/self/net/dev_mcast", text, sizeof text);
  CHECK((strstr(text, "01005e010207") != NULL) == (victim_state % 2 == 0), "the group is not what it was");
  CHECK(strstr(text, "01005e010208") == NULL, "a group of the wreck is there");
  uint32_t types = 0;
  socklen_t size = sizeof types;
  CHECK(getsockopt(FD(kEcho), SOL_RAW, ICMP_FILTER, &types, &size) == 0 && types == ~0U, "ICMP_FILTER differs");
  const unsigned char reply[8] = {0};  // an ICMP echo reply
  CHECK(send(FD(kEcho), reply, sizeof reply, 0) == (ssize_t)sizeof reply, "the raw one is connected to nobody: %s",
        strerror(errno));
  struct icmp6_filter none;
  size = sizeof none;
  CHECK(getsockopt(FD(kSix), IPPROTO_ICMPV6, ICMP6_FILTER, &none, &size) == 0 && ICMP6_FILTER_WILLBLOCK(128, &none),
        "ICMP6_FILTER differs");
  // It works: what the filter wants is heard, and only that.
  send_frame(kProtocol);
  char frame[256];
  const ssize_t got = recv(FD(kPacket), frame, sizeof frame, MSG_DONTWAIT);
  CHECK((got > 0) == (victim_state == 0), "a frame is heard or not: %zd", got);
  drain(FD(kPacket));
}
static void wreck(unsigned round) {
  send_frame(kProtocol);
  send_frame(kProtocol + 1);
  switch (round % 5) {
    case 0:
      belong(7, false);
      belong(8, true);
      filter(kPacket, 9);
      filter(kCooked, 9);
      break;
    case 1:
      for (int i = 0; i < SOCKETS; ++i) close(FD(i));
      break;
    case 2: {
      const int off = 0;
      MUST(setsockopt(FD(kPacket), SOL_SOCKET, SO_DETACH_FILTER, &off, sizeof off));
      const struct sockaddr_ll elsewhere = link_address(kProtocol + 2);
      MUST(bind(FD(kPacket), (const struct sockaddr*)&elsewhere, sizeof elsewhere));
      MUST(bind(FD(kFresh), (const struct sockaddr*)&elsewhere, sizeof elsewhere));
      const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
      MUST(connect(FD(kEcho), &nobody, sizeof nobody));
      break;
    }
    case 3: {
      const uint32_t all = 0;
      MUST(setsockopt(FD(kEcho), SOL_RAW, ICMP_FILTER, &all, sizeof all));
      close(FD(kPacket));
      open_at(kPacket);
      const struct sockaddr_ll here = link_address(kProtocol);
      MUST(bind(FD(kPacket), (const struct sockaddr*)&here, sizeof here));
      MUST(dup2(FD(kSix), FD(kHeader)));
      break;
    }
    default:
      for (int i = 0; i < SOCKETS; ++i) MUST(dup2(0, FD(i)));
      MUST(socket(AF_PACKET, SOCK_RAW, 0));
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set}); }
