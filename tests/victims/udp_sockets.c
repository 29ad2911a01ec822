// UDP sockets over IPv4 and IPv6: fresh, bound, connected, given a port by connecting; what waits unread, from whom;
// options. Read, refilled, closed, replaced, connected elsewhere and to nobody since.
#include "victim.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#ifndef SO_PEEK_OFF
#define SO_PEEK_OFF 42
#endif

// Who gets datagrams, and who sends to it:
//   kSelf      bound, connected to itself
//   kNamed     bound to an address                            from kAny and kSix by turns (kSix over IPv4)
//   kAny       bound to all addresses                         from kNamed and itself
//   kConnected bound, connected to kNamed                     from kNamed
//   kAuto      given a port by connecting to kAny             from kAny
//   kSix       IPv6, bound to all addresses, not IPv6 alone   from kSixToo
//   kSixToo    IPv6, bound to ::1, connected to kSix          nothing
//   kFresh     has options only
enum { kSelf, kNamed, kAny, kConnected, kAuto, kSix, kSixToo, kFresh, SOCKETS };
#define FD(i) (300 + (i))
static int sockets = SOCKETS;
static struct sockaddr_in6 own[SOCKETS], peers[SOCKETS];

static bool is_six(int i) { return i == kSix || i == kSixToo; }
static bool here(int i) { return sockets == SOCKETS || !is_six(i); }
static unsigned waiting(int i) {
  if (i == kFresh || i == kSixToo) return 0;
  return ((unsigned)i + victim_state) % 4;
}
static size_t length(int i, unsigned at) { return 1 + ((size_t)i * 137 + at * 1013 + victim_state % 2 * 3) % 3000; }
static uint64_t seed(int i, unsigned at) { return 9100 + (uint64_t)(i * 8) + at + 100 * victim_state; }
static int sender(int i, unsigned at) {
  switch (i) {
    case kNamed:
      return at % 2 != 0 && here(kSix) ? kSix : kAny;
    case kAny:
      return at % 2 != 0 ? kAny : kNamed;
    case kConnected:
      return kNamed;
    case kAuto:
      return kAny;
    case kSix:
      return kSixToo;
    default:
      return i;
  }
}

static in_port_t port_of(int i) { return own[i].sin6_port; }  // where that of sockaddr_in is
static socklen_t loopback(bool six, in_port_t port, struct sockaddr_in6* to) {
  memset(to, 0, sizeof *to);
  if (six) {
    *to = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT, .sin6_port = port};
    return sizeof *to;
  }
  *(struct sockaddr_in*)to =
      (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = port};
  return sizeof(struct sockaddr_in);
}
// Where `from` sends to in order to reach `to`: over IPv4 unless both speak IPv6.
static socklen_t way(int from, int to, struct sockaddr_in6* address) {
  if (!is_six(from) || is_six(to)) return loopback(is_six(from), port_of(to), address);
  memset(address, 0, sizeof *address);
  address->sin6_family = AF_INET6;
  address->sin6_port = port_of(to);
  inet_pton(AF_INET6, "::ffff:127.0.0.1", &address->sin6_addr);
  return sizeof *address;
}

static void drain(int fd) {
  char buffer[4096];
  while (recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) >= 0) {
  }
}
static void set(unsigned state) {
  (void)state;
  for (int i = 0; i < SOCKETS; ++i) {
    if (!here(i)) continue;
    drain(FD(i));
    for (unsigned at = 0; at < waiting(i); ++at) {
      unsigned char bytes[4096];
      struct sockaddr_in6 to;
      const socklen_t size = way(sender(i, at), i, &to);
      const size_t n = length(i, at);
      fill(bytes, n, seed(i, at));
      CHECK(sendto(FD(sender(i, at)), bytes, n, 0, (struct sockaddr*)&to, size) == (ssize_t)n, "sending to %d: %s", i,
            strerror(errno));
    }
  }
}
static void open_at(int i) {
  const int fd = MUST(socket(is_six(i) ? AF_INET6 : AF_INET, SOCK_DGRAM, 0));
  MUST(dup3(fd, FD(i), i == kAny ? O_CLOEXEC : 0));
  close(fd);
}
static void note(int i) {
  socklen_t size = sizeof own[i];
  MUST(getsockname(FD(i), (struct sockaddr*)&own[i], &size));
  size = sizeof peers[i];
  getpeername(FD(i), (struct sockaddr*)&peers[i], &size);
}
static void name(int i, bool any) {
  struct sockaddr_in6 address;
  const socklen_t size = loopback(is_six(i), 0, &address);
  if (any && is_six(i)) address.sin6_addr = in6addr_any;
  if (any && !is_six(i)) ((struct sockaddr_in*)&address)->sin_addr.s_addr = htonl(INADDR_ANY);
  MUST(bind(FD(i), (struct sockaddr*)&address, size));
  note(i);
}
static int join(int i, int to) {
  struct sockaddr_in6 address;
  const socklen_t size = way(i, to, &address);
  return connect(FD(i), (struct sockaddr*)&address, size);
}
static void make(void) {
  struct sockaddr_in6 address;
  const int probe = socket(AF_INET6, SOCK_DGRAM, 0);
  const socklen_t size = loopback(true, 0, &address);
  if (probe < 0 || bind(probe, (struct sockaddr*)&address, size) != 0) sockets = kSix;
  if (probe >= 0) close(probe);
  for (int i = 0; i < SOCKETS; ++i)
    if (here(i)) open_at(i);
  const int off = 0, on = 1, ttl = 77, bytes = 30000;
  if (here(kSix)) MUST(setsockopt(FD(kSix), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off));
  name(kSelf, false);
  name(kNamed, false);
  name(kAny, true);
  name(kConnected, false);
  if (here(kSix)) name(kSix, true);
  if (here(kSix)) name(kSixToo, false);
  MUST(join(kSelf, kSelf));
  MUST(join(kConnected, kNamed));
  MUST(join(kAuto, kAny));
  if (here(kSix)) MUST(join(kSixToo, kSix));
  for (int i = 0; i < SOCKETS; ++i)
    if (here(i)) note(i);
  MUST(setsockopt(FD(kFresh), IPPROTO_IP, IP_TTL, &ttl, sizeof ttl));
  MUST(setsockopt(FD(kFresh), SOL_SOCKET, SO_BROADCAST, &on, sizeof on));
  MUST(setsockopt(FD(kNamed), IPPROTO_IP, IP_PKTINFO, &on, sizeof on));
  MUST(setsockopt(FD(kNamed), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes));
  MUST(setsockopt(FD(kAuto), IPPROTO_IP, IP_RECVERR, &on, sizeof on));
  fcntl(FD(kAny), F_SETFL, O_RDWR | O_NONBLOCK);
  set(0);
}

static void check_waiting(int i) {
  const int begin = 0, off = -1, fd = FD(i);
  CHECK(setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &begin, sizeof begin) == 0, "SO_PEEK_OFF: %s", strerror(errno));
  for (unsigned at = 0; at < waiting(i); ++at) {
    unsigned char bytes[4096];
    struct sockaddr_in6 from, want;
    socklen_t size = sizeof from;
    const ssize_t got = recvfrom(fd, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT, (struct sockaddr*)&from, &size);
    CHECK(got == (ssize_t)length(i, at) && filled(bytes, (size_t)got, seed(i, at)),
          "datagram %u at %d has %zd bytes, want %zu", at, i, got, length(i, at));
    way(i, sender(i, at), &want);
    CHECK(got >= 0 && from.sin6_port == want.sin6_port &&
              (is_six(i) ? memcmp(&from.sin6_addr, &want.sin6_addr, sizeof from.sin6_addr) == 0
                         : ((struct sockaddr_in*)&from)->sin_addr.s_addr == htonl(INADDR_LOOPBACK)),
          "datagram %u at %d is from somebody else", at, i);
  }
  char more;
  CHECK(recv(fd, &more, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN, "%d has more waiting than it should", i);
  setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof off);
}
static int option(int i, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(FD(i), level, name, &value, &size) == 0 ? value : -1;
}
static void verify(void) {
  int open_ones[3 + SOCKETS] = {0, 1, 2};
  size_t count = 3;
  for (int i = 0; i < SOCKETS; ++i) {
    if (!here(i)) continue;
    open_ones[count++] = FD(i);
    check_waiting(i);
    struct sockaddr_in6 address = {0};
    socklen_t size = sizeof address;
    CHECK(getsockname(FD(i), (struct sockaddr*)&address, &size) == 0 && memcmp(&address, &own[i], size) == 0,
          "%d has another address", i);
    memset(&address, 0, sizeof address);
    size = sizeof address;
    const bool connected = getpeername(FD(i), (struct sockaddr*)&address, &size) == 0;
    CHECK(connected == (peers[i].sin6_family != 0) && (!connected || memcmp(&address, &peers[i], size) == 0),
          "%d is connected elsewhere", i);
  }
  check_descriptors(open_ones, count);
  CHECK_EQUAL("IP_TTL", option(kFresh, IPPROTO_IP, IP_TTL), 77);
  CHECK_EQUAL("SO_BROADCAST", option(kFresh, SOL_SOCKET, SO_BROADCAST), 1);
  CHECK_EQUAL("IP_PKTINFO", option(kNamed, IPPROTO_IP, IP_PKTINFO), 1);
  CHECK_EQUAL("SO_RCVBUF", option(kNamed, SOL_SOCKET, SO_RCVBUF), 60000);
  CHECK_EQUAL("IP_RECVERR", option(kAuto, IPPROTO_IP, IP_RECVERR), 1);
  if (here(kSix)) CHECK_EQUAL("IPV6_V6ONLY", option(kSix, IPPROTO_IPV6, IPV6_V6ONLY), 0);
  CHECK((fcntl(FD(kAny), F_GETFL) & O_NONBLOCK) != 0 && fcntl(FD(kAny), F_GETFD) == FD_CLOEXEC, "the flags differ");
  CHECK((fcntl(FD(kNamed), F_GETFL) & O_NONBLOCK) == 0, "the flags differ");
  struct sockaddr_in6 to;
  char word[8] = "";
  if (waiting(kAny) == 0) {
    const socklen_t size = way(kFresh, kAny, &to);
    const int stranger = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(sendto(stranger, "abc", 3, 0, (struct sockaddr*)&to, size) == 3 && recv(FD(kAny), word, 8, MSG_DONTWAIT) == 3,
          "a stranger is not heard: %s", strerror(errno));
    close(stranger);
  }
}

static void wreck(unsigned round) {
  const int on = 1, off = 0;
  for (int i = 0; i < SOCKETS; ++i) {
    if (!here(i) || i == kFresh) continue;
    if (round % 2 == 0 || i % 2 == 0) drain(FD(i));
    struct sockaddr_in6 to;
    const socklen_t size = way(kAny, i, &to);
    if (!is_six(i)) sendto(FD(kAny), "wreck", 5, 0, (struct sockaddr*)&to, size);
  }
  switch (round % 6) {
    case 1:  // every second one closed
      for (int i = (int)(round / 6) % 2; i < SOCKETS; i += 2) close(FD(i));
      break;
    case 2:  // options, and an error that nobody has seen yet
      MUST(setsockopt(FD(kNamed), IPPROTO_IP, IP_PKTINFO, &off, sizeof off));
      MUST(setsockopt(FD(kAny), SOL_SOCKET, SO_BROADCAST, &on, sizeof on));
      MUST(setsockopt(FD(kFresh), IPPROTO_IP, IP_TTL, (int[]){3}, sizeof(int)));
      fcntl(FD(kAny), F_SETFL, O_RDWR);
      close(FD(kAny));
      send(FD(kAuto), "x", 1, 0);
      break;
    case 3: {  // connected elsewhere, to nobody, and at last
      const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
      MUST(connect(FD(kSelf), &nobody, sizeof nobody));
      MUST(connect(FD(kAuto), &nobody, sizeof nobody));
      MUST(join(kConnected, kAny));
      MUST(join(kAny, kNamed));
      MUST(join(kNamed, kSelf));
      if (here(kSix)) MUST(connect(FD(kSixToo), &nobody, sizeof nobody));
      break;
    }
    case 4: {  // all closed, some replaced
      for (int i = 0; i < SOCKETS; ++i) close(FD(i));
      MUST(dup2(0, FD(kSelf)));
      open_at(kAny);
      open_at(kFresh);
      struct sockaddr_in6 to;
      const socklen_t size = way(kAny, kNamed, &to);
      MUST(bind(FD(kFresh), (struct sockaddr*)&to, size));
      MUST(socket(AF_INET, SOCK_DGRAM, 0));
      break;
    }
    case 5:  // numbers changed, and another one at an address of old
      MUST(dup2(FD(kNamed), FD(kSelf)));
      MUST(dup2(FD(kConnected), FD(kNamed)));
      close(FD(kAny));
      open_at(kAny);
      MUST(bind(FD(kAny), (struct sockaddr*)&own[kAny], sizeof(struct sockaddr_in)));
      break;
    default:
      break;
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set}); }
