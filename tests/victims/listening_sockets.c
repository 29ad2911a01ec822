// Sockets that listen: TCP over IPv4 and IPv6, unix by path and abstract; one that is only bound; one that is neither.
// After a rollback a new connection must come through.
#include "victim.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { kTcp, kTcp6, kPath, kAbstract, kBound, kFresh, SOCKETS };
#define FD(i) (210 + (i))
static struct sockaddr_storage addresses[SOCKETS];
static socklen_t lengths[SOCKETS];
static bool present[SOCKETS];

static bool listens(int i) { return i <= kAbstract; }
static int family(int i) { return i == kTcp6 ? AF_INET6 : i == kPath || i == kAbstract ? AF_UNIX : AF_INET; }
static int backlog_nodelay(unsigned state) { return state % 2 == 0 ? 1 : 0; }

static void become(unsigned state) {
  const int on = backlog_nodelay(state), off = !on;
  if (!present[kTcp]) return;
  setsockopt(FD(kTcp), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(FD(kTcp), SOL_SOCKET, SO_KEEPALIVE, &off, sizeof off);
}
static void make(void) {
  for (int i = 0; i < SOCKETS; ++i) {
    const int fd = socket(family(i), SOCK_STREAM | SOCK_CLOEXEC | (i == kTcp ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0 && i == kTcp6) continue;
    MUST(fd);
    MUST(dup3(fd, FD(i), O_CLOEXEC));
    close(fd);
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int result = 0;
    const int on = 1;
    // Without it a port with connections in TIME-WAIT cannot be bound again for a minute.
    if (i == kTcp || i == kTcp6) MUST(setsockopt(FD(i), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    if (i == kTcp || i == kBound) result = bind(FD(i), (struct sockaddr*)&in, sizeof in);
    if (i == kTcp6) result = bind(FD(i), (struct sockaddr*)&in6, sizeof in6);
    if (i == kPath) {
      char here[sizeof un.sun_path - 8];
      if (getcwd(here, sizeof here) == NULL) victim_die("getcwd");
      sprintf(un.sun_path, "%s/socket", here);
      unlink(un.sun_path);
      result = bind(FD(i), (struct sockaddr*)&un, sizeof un);
    }
    if (i == kAbstract) {
      const int n = sprintf(un.sun_path + 1, "relive-victim-%d", getpid());
      result = bind(FD(i), (struct sockaddr*)&un, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n));
    }
    if (result != 0 && i == kTcp6) {
      close(FD(i));
      continue;
    }
    MUST(result);
    if (listens(i)) MUST(listen(FD(i), 17));
    lengths[i] = sizeof addresses[i];
    MUST(getsockname(FD(i), (struct sockaddr*)&addresses[i], &lengths[i]));
    present[i] = true;
  }
  become(0);
}
static int option(int fd, int level, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  getsockopt(fd, level, name, &value, &length);
  return value;
}
static void verify(void) {
  int open_ones[3 + SOCKETS] = {0, 1, 2};
  size_t count = 3;
  for (int i = 0; i < SOCKETS; ++i) {
    if (!present[i]) continue;
    open_ones[count++] = FD(i);
    struct sockaddr_storage found = {0};
    socklen_t length = sizeof found;
    if (getsockname(FD(i), (struct sockaddr*)&found, &length) != 0) {
      victim_fail("socket %d: %s", i, strerror(errno));
      continue;
    }
    CHECK(length == lengths[i] && memcmp(&found, &addresses[i], length) == 0, "socket %d has another address", i);
    CHECK_EQUAL("does the socket listen", option(FD(i), SOL_SOCKET, SO_ACCEPTCONN), listens(i));
    CHECK_EQUAL("family of the socket", option(FD(i), SOL_SOCKET, SO_DOMAIN), family(i));
    if (!listens(i) || option(FD(i), SOL_SOCKET, SO_ACCEPTCONN) != 1) continue;
    const int from = socket(family(i), SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(from, (struct sockaddr*)&addresses[i], lengths[i]) != 0) {
      victim_fail("connecting to socket %d: %s", i, strerror(errno));
    } else {
      const int to = accept(FD(i), NULL, NULL);
      char word[4] = "";
      CHECK(to >= 0, "accepting on socket %d: %s", i, strerror(errno));
      if (to >= 0)
        CHECK(write(from, "abc", 3) == 3 && read(to, word, 3) == 3 && strcmp(word, "abc") == 0,
              "socket %d: the words differ", i);
      if (to >= 0) close(to);
    }
    close(from);
  }
  check_descriptors(open_ones, count);
  CHECK((fcntl(FD(kTcp), F_GETFL) & O_NONBLOCK) != 0, "the flags differ");
  CHECK_EQUAL("SO_REUSEADDR", option(FD(kTcp), SOL_SOCKET, SO_REUSEADDR), 1);
  CHECK_EQUAL("TCP_NODELAY", option(FD(kTcp), IPPROTO_TCP, TCP_NODELAY) != 0, backlog_nodelay(victim_state));
  CHECK_EQUAL("SO_KEEPALIVE", option(FD(kTcp), SOL_SOCKET, SO_KEEPALIVE) != 0, !backlog_nodelay(victim_state));
}
static void wreck(unsigned round) {
  const int opposite = !backlog_nodelay(victim_state);
  setsockopt(FD(kTcp), IPPROTO_TCP, TCP_NODELAY, &opposite, sizeof opposite);
  fcntl(FD(kTcp), F_SETFL, 0);
  if (round % 4 == 0) return;
  for (int i = 0; i < SOCKETS; ++i)
    if (present[i] && (round % 4 == 1 || i % 2 == (int)(round % 2))) close(FD(i));
  if (round % 4 == 2) MUST(dup2(0, FD(kAbstract)));
  MUST(socket(AF_INET, SOCK_STREAM, 0));
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
