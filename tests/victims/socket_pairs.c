// Connected unix stream sockets, both ends the task's own: unread bytes each way, ends shut down or closed, since and
// before.
#include "victim.h"

#include <sys/ioctl.h>
#include <sys/socket.h>

enum { kPair, kNonBlocking, kEmpty, PAIRS };
#define END(i, side) (230 + 2 * (i) + (side))
static const size_t waiting[2][PAIRS][2] = {{{1000, 30}, {0, 5000}, {0, 0}}, {{7, 0}, {90, 90}, {0, 0}}};
static uint64_t seed(int i, int side) { return 1500 + (uint64_t)(2 * i + side) + 100 * victim_state; }

static void drain(int fd) {
  char buffer[4096];
  while (recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) > 0) {
  }
}
static void set(unsigned state) {
  for (int i = 0; i < PAIRS; ++i)
    for (int side = 0; side < 2; ++side) {
      drain(END(i, side));
      unsigned char bytes[8192];
      const size_t n = waiting[state % 2][i][side];
      fill(bytes, n, seed(i, side));
      if (n != 0) CHECK(write(END(i, 1 - side), bytes, n) == (ssize_t)n, "write to pair %d: %s", i, strerror(errno));
    }
}
static void make(void) {
  for (int i = 0; i < PAIRS; ++i) {
    int ends[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (i == kNonBlocking ? SOCK_NONBLOCK : 0), 0, ends));
    for (int side = 0; side < 2; ++side) {
      MUST(dup3(ends[side], END(i, side), O_CLOEXEC));
      close(ends[side]);
    }
  }
  set(0);
}
static void verify(void) {
  int open_ones[3 + 2 * PAIRS] = {0, 1, 2};
  size_t count = 3;
  for (int i = 0; i < PAIRS; ++i)
    for (int side = 0; side < 2; ++side) {
      open_ones[count++] = END(i, side);
      const size_t want = waiting[victim_state % 2][i][side];
      unsigned char bytes[8192];
      ssize_t got = recv(END(i, side), bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
      if (got < 0 && errno == EAGAIN) got = 0;
      // MSG_PEEK of a stream may stop at the border of what was written at once.
      int available = -1;
      ioctl(END(i, side), FIONREAD, &available);
      CHECK((size_t)available == want && got >= 0 && (size_t)got <= want && (want == 0 || got > 0) &&
                filled(bytes, (size_t)(got < 0 ? 0 : got), seed(i, side)),
            "side %d of pair %d has %d bytes waiting (%zd seen), want %zu", side, i, available, got, want);
    }
  check_descriptors(open_ones, count);
  CHECK((fcntl(END(kNonBlocking, 0), F_GETFL) & O_NONBLOCK) != 0, "the flags differ");
  char word[4] = "";
  CHECK(send(END(kEmpty, 0), "abc", 3, MSG_NOSIGNAL) == 3 && recv(END(kEmpty, 1), word, 3, MSG_DONTWAIT) == 3 &&
            strcmp(word, "abc") == 0,
        "the pair does not carry words");
}
static void wreck(unsigned round) {
  for (int i = 0; i < PAIRS; ++i)
    for (int side = 0; side < 2; ++side) {
      drain(END(i, side));
      MUST(write(END(i, side), "wreck", 5));
    }
  if (round % 3 == 1) {
    close(END(kPair, 0));
    close(END(kEmpty, 0));
    close(END(kEmpty, 1));
  }
  if (round % 3 == 2) {
    shutdown(END(kEmpty, 0), SHUT_WR);
    dup2(END(kPair, 1), END(kNonBlocking, 1));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, (int[2]){0}));
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set}); }
