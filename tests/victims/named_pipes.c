// Named pipes: one end or both, one open file for both, bytes in them, in packets, more capacity, a reader that has
// seen no writer yet, one whose writer is gone, a writer whose reader is gone; names deleted, renamed and given to
// others.
#include "victim.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

enum { kBoth, kOneFile, kLarge, kNoWriter, kAwaits, kNoReader, kDeleted, kPackets, kTwoReaders, PIPES };
static const size_t bytes_in[2][PIPES] = {{3000, 100, 200000, 777, 0, 0, 40, 0, 5000},
                                          {1, 5000, 100000, 777, 0, 0, 0, 0, 65536}};
enum { kPacket = 300 };
#define READ_END(i) (200 + 3 * (i))
#define WRITE_END(i) (201 + 3 * (i))
#define SECOND(i) (202 + 3 * (i))
static char paths[PIPES][40];
static bool reads(int i) { return i != kNoReader; }
static bool writes(int i) { return i != kNoWriter && i != kAwaits && i != kOneFile; }
static bool refilled(int i) { return i != kNoWriter && i != kAwaits && i != kNoReader; }
static int writer(int i) { return i == kOneFile ? READ_END(i) : WRITE_END(i); }
static size_t want(int i) { return i == kPackets ? 2 * kPacket : bytes_in[victim_state % 2][i]; }
static uint64_t seed(int i) { return 2100 + (uint64_t)i + 50 * (i == kNoWriter ? 0 : victim_state); }

static void place(int fd, int to, int flags) {
  MUST(dup3(MUST(fd), to, flags));
  close(fd);
}
static void put(int fd, size_t bytes, uint64_t with) {
  unsigned char* p = malloc(bytes + 1);
  fill(p, bytes, with);
  CHECK(write(fd, p, bytes) == (ssize_t)bytes, "writing to %d: %s", fd, strerror(errno));
  free(p);
}
static void refill(int i) {
  if (i != kPackets) {
    put(writer(i), want(i), seed(i));
    return;
  }
  put(writer(i), kPacket, seed(i));
  put(writer(i), kPacket, seed(i) + 1);
}
static void drain(int fd) {
  char buffer[4096];
  const int flags = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, flags | O_NONBLOCK);
  while (read(fd, buffer, sizeof buffer) > 0) {
  }
  fcntl(fd, F_SETFL, flags);
}
static void make(void) {
  signal(SIGPIPE, SIG_IGN);
  for (int i = 0; i < PIPES; ++i) {
    snprintf(paths[i], sizeof paths[i], "fifo-%d", i);
    unlink(paths[i]);
    MUST(mkfifo(paths[i], 0600));
    if (i == kOneFile) {
      place(open(paths[i], O_RDWR), READ_END(i), O_CLOEXEC);
    } else {
      place(open(paths[i], O_RDONLY | O_NONBLOCK), READ_END(i), O_CLOEXEC);
      if (i == kAwaits) continue;
      place(open(paths[i], O_WRONLY), WRITE_END(i), 0);
      if (i != kBoth) MUST(fcntl(READ_END(i), F_SETFL, 0));
    }
    if (i == kTwoReaders) place(open(paths[i], O_RDONLY), SECOND(i), 0);
    if (i == kLarge) MUST(fcntl(WRITE_END(i), F_SETPIPE_SZ, 1 << 18));
    if (i == kPackets) MUST(fcntl(WRITE_END(i), F_SETFL, O_DIRECT));
    if (i != kNoReader) refill(i);
  }
  MUST(close(WRITE_END(kNoWriter)));
  MUST(close(READ_END(kNoReader)));
  MUST(unlink(paths[kDeleted]));
}
static void become(unsigned state) {
  (void)state;
  for (int i = 0; i < PIPES; ++i) {
    if (!refilled(i)) continue;
    drain(READ_END(i));
    refill(i);
  }
}
static int shown(int fd) {
  struct pollfd one = {.fd = fd, .events = POLLIN};
  return poll(&one, 1, 0) < 0 ? -1 : one.revents;
}
// tee(2) copies and takes nothing; the copies of packets are packets.
static void check_bytes(int i, int fd) {
  int left = -1;
  if (ioctl(fd, FIONREAD, &left) != 0 || (size_t)left != want(i)) {
    victim_fail("fifo %d holds %d bytes, want %zu", i, left, want(i));
    return;
  }
  if (left == 0) return;
  int copy[2];
  MUST(pipe(copy));
  MUST(fcntl(copy[0], F_SETPIPE_SZ, 1 << 18));
  unsigned char* bytes = malloc(want(i) + 1);
  size_t got = 0;
  CHECK(tee(fd, copy[1], want(i), 0) == (ssize_t)want(i), "tee from fifo %d gives less", i);
  close(copy[1]);
  if (i == kPackets) {
    for (uint64_t at = 0; at < 2; ++at)
      CHECK(read(copy[0], bytes, want(i)) == kPacket && filled(bytes, kPacket, seed(i) + at), "packets differ");
  } else {
    for (ssize_t n; got < want(i) && (n = read(copy[0], bytes + got, want(i) - got)) > 0;) got += (size_t)n;
    CHECK(got == want(i) && filled(bytes, want(i), seed(i)), "bytes in fifo %d differ", i);
  }
  close(copy[0]);
  free(bytes);
}
static void check_end(int i, int fd, int mode, int on_exec) {
  struct stat status;
  CHECK(fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode), "%d is no fifo", fd);
  CHECK(fcntl(fd, F_GETPIPE_SZ) == (i == kLarge ? 1 << 18 : 65536), "capacity of fifo %d is %d", i,
        fcntl(fd, F_GETPIPE_SZ));
  const int flags = fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_DIRECT);
  CHECK_EQUAL("flags of an end", flags, mode);
  CHECK_EQUAL("close-on-exec of an end", fcntl(fd, F_GETFD), on_exec);
}
static void verify(void) {
  int open_ones[3 + 3 * PIPES] = {0, 1, 2};
  size_t count = 3;
  for (int i = 0; i < PIPES; ++i) {
    if (reads(i)) {
      open_ones[count++] = READ_END(i);
      const int waits = i == kBoth || i == kAwaits ? O_NONBLOCK : 0;
      check_end(i, READ_END(i), i == kOneFile ? O_RDWR : O_RDONLY | waits, FD_CLOEXEC);
      check_bytes(i, READ_END(i));
    }
    if (writes(i)) {
      open_ones[count++] = WRITE_END(i);
      check_end(i, WRITE_END(i), O_WRONLY | (i == kPackets ? O_DIRECT : 0), 0);
    }
  }
  open_ones[count++] = SECOND(kTwoReaders);
  check_end(kTwoReaders, SECOND(kTwoReaders), O_RDONLY, 0);
  check_bytes(kTwoReaders, SECOND(kTwoReaders));
  check_descriptors(open_ones, count);
  CHECK_EQUAL("poll where the writer is gone", shown(READ_END(kNoWriter)), POLLIN | POLLHUP);
  CHECK_EQUAL("poll where no writer has come", shown(READ_END(kAwaits)), 0);
  CHECK_EQUAL("poll where the reader is gone", shown(WRITE_END(kNoReader)), POLLERR);
  CHECK(write(WRITE_END(kNoReader), "x", 1) == -1 && errno == EPIPE, "the reader is not gone");
  // Both ends are of one pipe: what goes in comes out.
  for (int i = 0; i < PIPES; ++i) {
    if (!refilled(i)) continue;
    drain(READ_END(i));
    char word[8] = "";
    put(writer(i), 8, 5);
    CHECK(read(i == kTwoReaders ? SECOND(i) : READ_END(i), word, sizeof word) == 8 && filled(word, 8, 5),
          "the ends of fifo %d are of different pipes", i);
    refill(i);
  }
}
static void close_all(void) {
  for (int i = 0; i < PIPES; ++i)
    for (int fd = READ_END(i); fd <= SECOND(i); ++fd) close(fd);
}
static void wreck(unsigned round) {
  for (int i = 0; i < PIPES; ++i) {
    if (reads(i) && round % 2 == 0) drain(READ_END(i));
    if (refilled(i) && want(i) < 65536) put(writer(i), 50, 9);
  }
  // A writer comes and goes, and so does a reader.
  const int passing = open(paths[kAwaits], O_WRONLY | O_NONBLOCK);
  if (passing >= 0) put(passing, 5, 1);
  close(passing);
  close(open(paths[kNoReader], O_RDONLY | O_NONBLOCK));
  switch (round % 6) {
    case 1:
      close(WRITE_END(kBoth));
      close(READ_END(kLarge));
      close(WRITE_END(kDeleted));
      close(READ_END(kDeleted));
      close(WRITE_END(kNoReader));
      close(SECOND(kTwoReaders));
      close(READ_END(kOneFile));
      close(READ_END(kAwaits));
      break;
    case 2:
      close_all();
      break;
    case 3:  // the names lead elsewhere
      for (int i = 0; i < PIPES; ++i) {
        char moved[40];
        snprintf(moved, sizeof moved, "moved-%d", i);
        rename(paths[i], moved);
        mkfifo(paths[i], 0600);
      }
      close_all();
      for (int i = 0; i < PIPES; ++i) place(open(paths[i], O_RDWR), READ_END(i), 0);
      break;
    case 4:  // the ends change places
      MUST(dup2(WRITE_END(kBoth), 260));
      MUST(dup2(READ_END(kBoth), WRITE_END(kBoth)));
      MUST(dup2(260, READ_END(kBoth)));
      MUST(dup2(READ_END(kLarge), READ_END(kOneFile)));
      close(READ_END(kNoWriter));
      break;
    case 5:
      drain(READ_END(kLarge));
      MUST(fcntl(READ_END(kLarge), F_SETPIPE_SZ, 4096));
      MUST(fcntl(READ_END(kBoth), F_SETPIPE_SZ, 1 << 17));
      MUST(fcntl(READ_END(kNoWriter), F_SETPIPE_SZ, 1 << 17));
      MUST(fcntl(READ_END(kBoth), F_SETFL, 0));
      MUST(fcntl(WRITE_END(kPackets), F_SETFL, O_NONBLOCK));
      put(WRITE_END(kPackets), 7, 3);
      break;
    default:
      for (int i = 0; i < PIPES; ++i) unlink(paths[i]);
      break;
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
