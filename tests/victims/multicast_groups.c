// Multicast groups of UDP sockets, on the loopback device: any source, some sources only, all but some; IPv4 and IPv6.
// Left, joined, filtered otherwise, closed since.
#include "victim.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum { kFour = 310, kSix = 311 };
enum { kPlain, kSome, kAllBut, kPlainSix, kAllButSix, GROUPS };
// In each of two states: how many sources, or -1 for a group that was not joined.
static const int sources[2][GROUPS] = {{0, 2, 1, 0, 3}, {-1, 1, 2, 0, -1}};
static const char* const names[GROUPS] = {"239.8.1.1", "239.8.1.2", "239.8.1.3", "ff02::8:1", "ff02::8:2"};
static struct sockaddr_in bound;

static bool is_six(int g) { return g >= kPlainSix; }
static int level(int g) { return is_six(g) ? IPPROTO_IPV6 : IPPROTO_IP; }
static int fd_of(int g) { return is_six(g) ? kSix : kFour; }
static struct sockaddr_storage address(bool six, const char* text) {
  struct sockaddr_storage to = {.ss_family = six ? AF_INET6 : AF_INET};
  if (inet_pton(to.ss_family, text,
                six ? (void*)&((struct sockaddr_in6*)&to)->sin6_addr : (void*)&((struct sockaddr_in*)&to)->sin_addr) !=
      1)
    victim_die(text);
  return to;
}
static struct sockaddr_storage source(int g, int at) {
  char text[32];
  sprintf(text, is_six(g) ? "fd00::%d" : "127.0.0.%d", 2 + at);
  return address(is_six(g), text);
}
static struct group_req group(int g) {
  return (struct group_req){.gr_interface = if_nametoindex("lo"), .gr_group = address(is_six(g), names[g])};
}
static void leave(int g) {
  const struct group_req request = group(g);
  setsockopt(fd_of(g), level(g), MCAST_LEAVE_GROUP, &request, sizeof request);
}
static int one_source(int g, int at, int option) {
  const struct group_req of = group(g);
  const struct group_source_req request = {
      .gsr_interface = of.gr_interface, .gsr_group = of.gr_group, .gsr_source = source(g, at)};
  return setsockopt(fd_of(g), level(g), option, &request, sizeof request);
}
static void join(int g) {
  const int n = sources[victim_state % 2][g];
  const struct group_req request = group(g);
  if (n < 0) return;
  if (g != kSome)
    CHECK(setsockopt(fd_of(g), level(g), MCAST_JOIN_GROUP, &request, sizeof request) == 0, "joining %s: %s", names[g],
          strerror(errno));
  for (int at = 0; at < n; ++at)
    CHECK(one_source(g, at, g == kSome ? MCAST_JOIN_SOURCE_GROUP : MCAST_BLOCK_SOURCE) == 0, "source %d of %s: %s", at,
          names[g], strerror(errno));
}
static void set(unsigned state) {
  (void)state;
  for (int g = 0; g < GROUPS; ++g) leave(g);
  for (int g = 0; g < GROUPS; ++g) join(g);
}
static void open_both(void) {
  MUST(dup2(MUST(socket(AF_INET, SOCK_DGRAM, 0)), kFour));
  MUST(dup2(MUST(socket(AF_INET6, SOCK_DGRAM, 0)), kSix));
  close(3);
  close(4);
}
static void make(void) {
  const int probe = socket(AF_INET6, SOCK_DGRAM, 0);
  if (probe < 0) victim_skip("needs IPv6: groups of both families");
  close(probe);
  open_both();
  const unsigned char ttl = 5;
  MUST(setsockopt(kFour, IPPROTO_IP, IP_MULTICAST_TTL, &ttl, sizeof ttl));
  const struct ip_mreqn lo = {.imr_address.s_addr = htonl(INADDR_LOOPBACK)};
  MUST(setsockopt(kFour, IPPROTO_IP, IP_MULTICAST_IF, &lo, sizeof lo));
  bound = (struct sockaddr_in){.sin_family = AF_INET};
  MUST(bind(kFour, (struct sockaddr*)&bound, sizeof bound));
  socklen_t size = sizeof bound;
  MUST(getsockname(kFour, (struct sockaddr*)&bound, &size));
  set(0);
}

static void check_group(int g) {
  const int want = sources[victim_state % 2][g];
  const struct group_req of = group(g);
  union {
    struct group_filter filter;
    char bytes[GROUP_FILTER_SIZE(16)];
  } told = {.filter = {.gf_interface = of.gr_interface, .gf_group = of.gr_group, .gf_numsrc = 16}};
  socklen_t size = sizeof told;
  const bool member = getsockopt(fd_of(g), level(g), MCAST_MSFILTER, &told, &size) == 0;
  CHECK(member == (want >= 0), "%s: member %d, want %d", names[g], member, want >= 0);
  if (!member || want < 0) return;
  CHECK_EQUAL(names[g], told.filter.gf_fmode, g == kSome ? MCAST_INCLUDE : MCAST_EXCLUDE);
  CHECK_EQUAL(names[g], told.filter.gf_numsrc, want);
  for (int at = 0; at < want; ++at) {
    const struct sockaddr_storage here = source(g, at);
    bool found = false;
    for (unsigned i = 0; i < told.filter.gf_numsrc; ++i)
      found = found || (is_six(g) ? memcmp(&((struct sockaddr_in6*)&told.filter.gf_slist[i])->sin6_addr,
                                           &((const struct sockaddr_in6*)&here)->sin6_addr, 16) == 0
                                  : ((struct sockaddr_in*)&told.filter.gf_slist[i])->sin_addr.s_addr ==
                                        ((const struct sockaddr_in*)&here)->sin_addr.s_addr);
    CHECK(found, "%s lacks source %d", names[g], at);
  }
}
static void verify(void) {
  check_descriptors((int[]){0, 1, 2, kFour, kSix}, 5);
  for (int g = 0; g < GROUPS; ++g) check_group(g);
  struct in_addr from = {0};
  socklen_t size = sizeof from;
  CHECK(getsockopt(kFour, IPPROTO_IP, IP_MULTICAST_IF, &from, &size) == 0 && from.s_addr == htonl(INADDR_LOOPBACK),
        "IP_MULTICAST_IF differs");
  // What is sent to the group is heard by the one that has joined it, on this device.
  if (sources[victim_state % 2][kPlain] < 0) return;
  struct sockaddr_in to = *(struct sockaddr_in*)&(struct sockaddr_storage){0};
  const struct sockaddr_storage plain = address(false, names[kPlain]);
  memcpy(&to, &plain, sizeof to);
  to.sin_port = bound.sin_port;
  char word[8] = "";
  CHECK(sendto(kFour, "abc", 3, 0, (struct sockaddr*)&to, sizeof to) == 3 &&
            recv(kFour, word, sizeof word, MSG_DONTWAIT) == 3 && strcmp(word, "abc") == 0,
        "the group is not heard: %s", strerror(errno));
}
static void wreck(unsigned round) {
  switch (round % 5) {
    case 0:
      for (int g = 0; g < GROUPS; ++g) leave(g);
      break;
    case 1:
      one_source(kSome, 7, MCAST_JOIN_SOURCE_GROUP);
      one_source(kSome, 0, MCAST_LEAVE_SOURCE_GROUP);
      one_source(kPlain, 3, MCAST_BLOCK_SOURCE);
      one_source(kAllBut, 0, MCAST_UNBLOCK_SOURCE);
      one_source(kAllButSix, 1, MCAST_UNBLOCK_SOURCE);
      break;
    case 2: {  // another group, and the other way of filtering
      const struct ip_mreqn more = {.imr_multiaddr.s_addr = htonl(0xef080909),
                                    .imr_ifindex = (int)if_nametoindex("lo")};
      MUST(setsockopt(kFour, IPPROTO_IP, IP_ADD_MEMBERSHIP, &more, sizeof more));
      leave(kSome);
      const struct group_req request = group(kSome);
      MUST(setsockopt(kFour, IPPROTO_IP, MCAST_JOIN_GROUP, &request, sizeof request));
      leave(kPlain);
      one_source(kPlain, 1, MCAST_JOIN_SOURCE_GROUP);
      break;
    }
    case 3:
      close(kFour);
      close(kSix);
      break;
    default:
      close(kFour);
      close(kSix);
      open_both();
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set}); }
