// Unix sockets that keep boundaries (datagram and seqpacket), and messages that carry credentials: pairs, names in the
// file system and abstract, one connected to another, a connection accepted, ends shut down; what waits unread, from
// whom. Closed, refilled, replaced and connected elsewhere since.
#include "victim.h"

#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifndef SO_PEEK_OFF
#define SO_PEEK_OFF 42
#endif

// Two numbers each; a second one that is not wanted stays closed.
enum { kPair, kPackets, kHalf, kCredentials, kAccepted, kNames, kPath, kPlain, kGone, GROUPS };
#define FD(i, side) (250 + 2 * (i) + (side))
enum { kListener = 250 + 2 * GROUPS };

static struct sockaddr_un names[GROUPS][2];
static socklen_t lengths[GROUPS][2];

// How many messages wait at a socket, and how long each is.
static unsigned waiting(int i, int side) {
  if (i == kPlain || i == kPath) return 0;
  if (i == kGone) return side == 0 ? 2 : 0;
  if (i == kHalf) return side == 0 ? 0 : 2;
  if (i == kNames) return side == 0 ? 4 : 0;
  return (unsigned)(i + 2 * side + (int)victim_state) % 4;
}
static size_t length(int i, int side, unsigned at) {
  return 1 + ((size_t)i * 37 + (size_t)side * 501 + at * 1013 + victim_state % 2 * 3) % 3000;
}
static uint64_t seed(int i, int side, unsigned at) {
  return 7000 + (uint64_t)(i * 8 + side * 4) + at + 100 * victim_state;
}

static void drain(int fd) {
  char buffer[4096];
  while (recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) > 0) {
  }
}
static void name_of(int i, int side, bool path) {
  struct sockaddr_un* const un = &names[i][side];
  un->sun_family = AF_UNIX;
  int n;
  if (path) {
    char here[sizeof un->sun_path - 16];
    if (getcwd(here, sizeof here) == NULL) victim_die("getcwd");
    n = sprintf(un->sun_path, "%s/messages-%d", here, i) + 1;
    unlink(un->sun_path);
  } else {
    n = 1 + sprintf(un->sun_path + 1, "relive-messages-%d-%d-%d", getpid(), i, side);
  }
  lengths[i][side] = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n);
}
static void place(int fd, int to) {
  MUST(dup3(fd, to, O_CLOEXEC));
  close(fd);
}
static void make_pair(int i, int type) {
  int ends[2];
  MUST(socketpair(AF_UNIX, type | SOCK_CLOEXEC | (i == kPackets ? SOCK_NONBLOCK : 0), 0, ends));
  place(ends[0], FD(i, 0));
  place(ends[1], FD(i, 1));
}
static void make_named(int i, int side, int type, bool path) {
  place(MUST(socket(AF_UNIX, type, 0)), FD(i, side));
  name_of(i, side, path);
  MUST(bind(FD(i, side), (struct sockaddr*)&names[i][side], lengths[i][side]));
}

// Who sends message `at` to a socket: its peer; to the one with a name, by turns one with a name and one without.
static void put(int i, int side, unsigned at) {
  unsigned char bytes[4096];
  const size_t n = length(i, side, at);
  fill(bytes, n, seed(i, side, at));
  if (i != kNames) {
    CHECK(send(FD(i, 1 - side), bytes, n, MSG_NOSIGNAL) == (ssize_t)n, "sending to %d/%d: %s", i, side,
          strerror(errno));
    return;
  }
  const int nobody = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  CHECK(sendto(at % 2 == 0 ? FD(kNames, 1) : nobody, bytes, n, 0, (struct sockaddr*)&names[i][0], lengths[i][0]) ==
            (ssize_t)n,
        "sending to the one with a name: %s", strerror(errno));
  close(nobody);
}
static bool refilled(int i) { return i != kHalf && i != kGone; }
static void set(unsigned state) {
  (void)state;
  for (int i = 0; i < GROUPS; ++i)
    for (int side = 0; side < 2 && refilled(i); ++side) {
      drain(FD(i, side));
      for (unsigned at = 0; at < waiting(i, side); ++at) put(i, side, at);
    }
}
static void make(void) {
  make_pair(kPair, SOCK_DGRAM);
  make_pair(kPackets, SOCK_SEQPACKET);
  make_pair(kHalf, SOCK_SEQPACKET);
  make_pair(kCredentials, SOCK_STREAM);
  const int on = 1;
  for (int side = 0; side < 2; ++side)
    MUST(setsockopt(FD(kCredentials, side), SOL_SOCKET, SO_PASSCRED, &on, sizeof on));

  struct sockaddr_un listening = {.sun_family = AF_UNIX};
  const int n = 1 + sprintf(listening.sun_path + 1, "relive-messages-%d", getpid());
  const socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n);
  place(MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0)), kListener);
  MUST(bind(kListener, (struct sockaddr*)&listening, size));
  MUST(listen(kListener, 5));
  place(MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0)), FD(kAccepted, 0));
  MUST(connect(FD(kAccepted, 0), (struct sockaddr*)&listening, size));
  place(MUST(accept(kListener, NULL, NULL)), FD(kAccepted, 1));

  make_named(kNames, 0, SOCK_DGRAM, false);
  make_named(kNames, 1, SOCK_DGRAM, false);
  make_named(kPath, 0, SOCK_DGRAM, true);
  place(MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), FD(kPath, 1));
  MUST(connect(FD(kPath, 1), (struct sockaddr*)&names[kPath][0], lengths[kPath][0]));
  place(MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), FD(kPlain, 0));
  place(MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0)), FD(kPlain, 1));
  make_pair(kGone, SOCK_SEQPACKET);
  for (unsigned at = 0; at < 2; ++at) put(kGone, 0, at);
  for (unsigned at = 0; at < 2; ++at) put(kHalf, 1, at);
  MUST(shutdown(FD(kHalf, 0), SHUT_WR));
  MUST(close(FD(kGone, 1)));
  set(0);
}

static bool fixed(int i) { return i == kHalf || i == kGone; }
static void check_waiting(int i, int side) {
  const int fd = FD(i, side);
  const int begin = 0, off = -1;
  const unsigned now = victim_state;
  if (fixed(i)) victim_state = 0;  // filled once
  CHECK(setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &begin, sizeof begin) == 0, "SO_PEEK_OFF: %s", strerror(errno));
  const bool stream = i == kCredentials;
  for (unsigned at = 0; at < waiting(i, side); ++at) {
    unsigned char bytes[4096];
    struct sockaddr_un from = {0};
    union {
      struct cmsghdr header;
      char bytes[256];
    } control;
    struct iovec piece = {bytes, stream ? length(i, side, at) : sizeof bytes};
    struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &piece, .msg_iovlen = 1};
    message.msg_control = &control;
    message.msg_controllen = sizeof control;
    const ssize_t got = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT);
    CHECK(got == (ssize_t)length(i, side, at) && filled(bytes, (size_t)got, seed(i, side, at)),
          "message %u at %d/%d has %zd bytes, want %zu", at, i, side, got, length(i, side, at));
    if (i == kNames) {
      const bool named = message.msg_namelen > sizeof(sa_family_t);
      CHECK(named == (at % 2 == 0) &&
                (!named || (message.msg_namelen == lengths[i][1] && memcmp(&from, &names[i][1], lengths[i][1]) == 0)),
            "message %u is from somebody else", at);
    }
    if (stream) {
      struct ucred sender = {0};
      for (struct cmsghdr* c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_type == SCM_CREDENTIALS) memcpy(&sender, CMSG_DATA(c), sizeof sender);
      CHECK_EQUAL("pid of the sender", sender.pid, getpid());
      CHECK_EQUAL("uid of the sender", sender.uid, getuid());
    }
  }
  char more;
  const ssize_t further = recv(fd, &more, 1, MSG_PEEK | MSG_DONTWAIT);
  if (i == kGone || (i == kHalf && side == 1))
    CHECK(further == 0, "%d/%d does not see the end: %zd", i, side, further);
  else
    CHECK(further < 0, "%d/%d has more waiting than it should", i, side);
  setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof off);
  victim_state = now;
}
static void verify(void) {
  int open_ones[4 + 2 * GROUPS] = {0, 1, 2, kListener};
  size_t count = 4;
  for (int i = 0; i < GROUPS; ++i)
    for (int side = 0; side < 2; ++side) {
      if (i == kGone && side == 1) continue;
      open_ones[count++] = FD(i, side);
      if (i != kPlain) check_waiting(i, side);
      struct sockaddr_un own = {0};
      socklen_t size = sizeof own;
      if (lengths[i][side] != 0)
        CHECK(getsockname(FD(i, side), (struct sockaddr*)&own, &size) == 0 && size == lengths[i][side] &&
                  memcmp(&own, &names[i][side], size) == 0,
              "%d/%d has another name", i, side);
    }
  check_descriptors(open_ones, count);
  CHECK((fcntl(FD(kPackets, 0), F_GETFL) & O_NONBLOCK) != 0, "the flags differ");
  char word[8] = "";
  CHECK(send(FD(kPath, 1), "abc", 3, MSG_NOSIGNAL) == 3 && recv(FD(kPath, 0), word, sizeof word, MSG_DONTWAIT) == 3 &&
            memcmp(word, "abc", 3) == 0,
        "the connected one does not reach the other: %s", strerror(errno));
  CHECK(send(FD(kHalf, 0), "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "the half that was shut down sends");
  CHECK(send(FD(kHalf, 1), "xyz", 3, MSG_NOSIGNAL) == 3 && recv(FD(kHalf, 0), word, sizeof word, MSG_DONTWAIT) == 3,
        "the other half does not carry words");
  CHECK(send(FD(kPlain, 0), "x", 1, MSG_NOSIGNAL) == -1 && errno == ENOTCONN, "the fresh one is connected");
}
static void wreck(unsigned round) {
  for (int i = 0; i < kPlain; ++i)
    for (int side = 0; side < 2; ++side)
      if (round % 2 == 0 || i % 2 == 0) drain(FD(i, side));
  send(FD(kPackets, 0), "one", 3, MSG_NOSIGNAL);
  send(FD(kPackets, 1), "two", 3, MSG_NOSIGNAL);
  send(FD(kPath, 1), "three", 5, MSG_NOSIGNAL);
  switch (round % 5) {
    case 1:
      for (int i = 0; i < GROUPS; ++i) close(FD(i, (int)(round / 5) % 2));
      close(FD(kGone, 0));
      break;
    case 2:
      shutdown(FD(kPair, 0), SHUT_RDWR);
      shutdown(FD(kPackets, 1), SHUT_WR);
      close(FD(kCredentials, 0));
      dup2(FD(kNames, 0), FD(kHalf, 1));
      break;
    case 3:
      dup2(0, FD(kNames, 0));
      dup2(FD(kNames, 1), FD(kPath, 0));
      connect(FD(kPath, 1), (struct sockaddr*)&names[kNames][1], lengths[kNames][1]);
      MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, (int[2]){0}));
      break;
    case 4:
      for (int i = 0; i < GROUPS; ++i) {
        close(FD(i, 0));
        close(FD(i, 1));
      }
      close(kListener);
      break;
    default:
      connect(FD(kPlain, 0), (struct sockaddr*)&names[kNames][0], lengths[kNames][0]);
      bind(FD(kPlain, 1), &(struct sockaddr){.sa_family = AF_UNIX}, sizeof(sa_family_t));
      send(FD(kNames, 1), "x", 1, MSG_NOSIGNAL);
      break;
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set}); }
