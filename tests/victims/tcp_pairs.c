// TCP connections from the task to itself, over IPv4 and IPv6: unread bytes each way, addresses, options; read,
// written, closed and replaced since.
#include "victim.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum { kLoaded, kNonBlocking, kEmpty, kHalf, kSix, PAIRS };  // side 0 of kHalf has shut down sending
#define END(i, side) (260 + 2 * (i) + (side))
#define LISTENER(i) (280 + (i))
static const size_t waiting[2][PAIRS][2] = {{{1000, 30}, {0, 50000}, {0, 0}, {70, 400}, {11, 0}},
                                            {{7, 0}, {90, 90}, {0, 0}, {3, 400}, {0, 42000}}};
static bool fixed(int i, int side) { return i == kHalf && side == 1; }  // nobody can send to it again
static uint64_t seed(int i, int side) {
  return 2500 + (uint64_t)(2 * i + side) + (fixed(i, side) ? 0 : 100 * victim_state);
}

static struct sockaddr_in6 addresses[PAIRS][2];  // big enough for both families
static int pairs = PAIRS;
static bool ready;  // all is set up

static int waiting_at(int fd) {
  int available = -1;
  ioctl(fd, FIONREAD, &available);
  return available;
}
static void drain(int fd) {
  char buffer[4096];
  while (recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) > 0) {
  }
}
static void await(int fd, size_t bytes) {
  for (const double until = now() + 10; waiting_at(fd) != (int)bytes && now() < until;) sched_yield();
}
static void set(unsigned state) {
  for (int i = 0; i < pairs; ++i)
    for (int side = 0; side < 2; ++side) {
      if (ready && fixed(i, side)) continue;
      drain(END(i, side));
      unsigned char bytes[65536];
      const size_t n = waiting[state % 2][i][side];
      fill(bytes, n, seed(i, side));
      if (n != 0) CHECK(write(END(i, 1 - side), bytes, n) == (ssize_t)n, "write to pair %d: %s", i, strerror(errno));
      await(END(i, side), n);
    }
}
static socklen_t loopback(int family, struct sockaddr_in6* to) {
  memset(to, 0, sizeof *to);
  if (family == AF_INET6) {
    *to = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    return sizeof *to;
  }
  *(struct sockaddr_in*)to = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  return sizeof(struct sockaddr_in);
}
static void put(int fd, int number) {
  MUST(dup3(fd, number, O_CLOEXEC));
  close(fd);
}
static void connect_pair(int i, int family) {
  struct sockaddr_in6 address;
  socklen_t size = loopback(family, &address);
  const int listener = MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  MUST(bind(listener, (struct sockaddr*)&address, size));
  MUST(listen(listener, 3));
  MUST(getsockname(listener, (struct sockaddr*)&address, &size));
  const int client = MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  MUST(connect(client, (struct sockaddr*)&address, size));
  put(MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC)), END(i, 1));
  put(client, END(i, 0));
  put(listener, LISTENER(i));
  for (int side = 0; side < 2; ++side) {
    size = sizeof addresses[i][side];
    MUST(getsockname(END(i, side), (struct sockaddr*)&addresses[i][side], &size));
  }
}
static bool may_repair(void) {
  const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0)), on = 1;
  const bool can = setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof on) == 0;
  close(fd);
  return can;
}
static void make(void) {
  if (!may_repair()) victim_skip("needs CAP_NET_ADMIN: TCP repair");
  struct sockaddr_in6 address;
  const int probe = socket(AF_INET6, SOCK_STREAM, 0);
  const socklen_t size = loopback(AF_INET6, &address);
  if (probe < 0 || bind(probe, (struct sockaddr*)&address, size) != 0) pairs = kSix;
  if (probe >= 0) close(probe);
  for (int i = 0; i < pairs; ++i) connect_pair(i, i == kSix ? AF_INET6 : AF_INET);
  for (int side = 0; side < 2; ++side) fcntl(END(kNonBlocking, side), F_SETFL, O_RDWR | O_NONBLOCK);
  const int on = 1;
  MUST(setsockopt(END(kLoaded, 0), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
  set(0);
  MUST(shutdown(END(kHalf, 0), SHUT_WR));
  ready = true;
}
static void verify(void) {
  int open_ones[3 + 3 * PAIRS] = {0, 1, 2};
  size_t count = 3;
  for (int i = 0; i < pairs; ++i) {
    open_ones[count++] = LISTENER(i);
    for (int side = 0; side < 2; ++side) {
      open_ones[count++] = END(i, side);
      const size_t want = waiting[victim_state % 2][i][side];
      unsigned char bytes[65536];
      ssize_t got = recv(END(i, side), bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
      if (got < 0 && errno == EAGAIN) got = 0;
      CHECK(got == (ssize_t)want && filled(bytes, (size_t)(got < 0 ? 0 : got), seed(i, side)),
            "side %d of connection %d has %zd bytes waiting, want %zu", side, i, got, want);
      struct sockaddr_in6 own, peer;
      memset(&own, 0, sizeof own);
      memset(&peer, 0, sizeof peer);
      socklen_t size = sizeof own;
      CHECK(getsockname(END(i, side), (struct sockaddr*)&own, &size) == 0 &&
                memcmp(&own, &addresses[i][side], sizeof own) == 0,
            "side %d of connection %d has another address", side, i);
      size = sizeof peer;
      CHECK(getpeername(END(i, side), (struct sockaddr*)&peer, &size) == 0 &&
                memcmp(&peer, &addresses[i][1 - side], sizeof peer) == 0,
            "side %d of connection %d has another peer", side, i);
    }
  }
  check_descriptors(open_ones, count);
  CHECK((fcntl(END(kNonBlocking, 0), F_GETFL) & O_NONBLOCK) != 0, "the flags differ");
  CHECK((fcntl(END(kEmpty, 0), F_GETFL) & O_NONBLOCK) == 0, "the flags differ");
  int on = 0;
  socklen_t size = sizeof on;
  CHECK(getsockopt(END(kLoaded, 0), IPPROTO_TCP, TCP_NODELAY, &on, &size) == 0 && on != 0, "TCP_NODELAY is lost");
  struct tcp_info info;
  size = sizeof info;
  CHECK(getsockopt(END(kHalf, 0), IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
            (info.tcpi_state == TCP_FIN_WAIT1 || info.tcpi_state == TCP_FIN_WAIT2),
        "the half that was shut down is not");
  CHECK(send(END(kHalf, 0), "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "the half that was shut down sends");
  for (int side = 0; side < 2; ++side) {
    char word[8] = "";
    CHECK(send(END(kEmpty, side), "abc", 3, MSG_NOSIGNAL) == 3 &&
              recv(END(kEmpty, 1 - side), word, 3, MSG_WAITALL) == 3 && strcmp(word, "abc") == 0,
          "the connection does not carry words from side %d", side);
  }
}
static void wreck(unsigned round) {
  for (int i = 0; i < pairs; ++i)
    for (int side = 0; side < 2; ++side) {
      const bool gone = i == kHalf && round % 4 == 1;
      if (!fixed(i, side) || gone) drain(END(i, side));
      if (i != kHalf || side != 0) MUST(write(END(i, side), "wreck", 5));
    }
  const int off = 0;
  MUST(setsockopt(END(kLoaded, 0), IPPROTO_TCP, TCP_NODELAY, &off, sizeof off));
  fcntl(END(kNonBlocking, 0), F_SETFL, O_RDWR);
  if (round % 4 == 1)  // with bytes unread: a reset
    for (int i = 0; i < pairs; ++i) {
      close(END(i, 0));
      close(END(i, 1));
    }
  if (round % 4 == 2) {  // an orderly end
    for (int side = 0; side < 2; ++side) drain(END(kEmpty, side));
    close(END(kEmpty, 0));
    close(END(kEmpty, 1));
    MUST(dup2(0, END(kEmpty, 1)));
    close(LISTENER(kEmpty));
  }
  if (round % 4 == 3) {  // another connection under the numbers of the old one
    close(END(kLoaded, 0));
    close(END(kLoaded, 1));
    const int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(client, (struct sockaddr*)&addresses[kLoaded][1], sizeof(struct sockaddr_in)));
    put(client, END(kLoaded, 0));
    put(MUST(accept(LISTENER(kLoaded), NULL, NULL)), END(kLoaded, 1));
    MUST(write(END(kLoaded, 0), "another", 7));
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set}); }
