// Pipes whose both ends are the task's own: bytes in them, capacity, flags, ends closed before and since.
#include "victim.h"

#include <sys/ioctl.h>

enum { kSome, kNonBlocking, kLarge, kNoWriter, kEmpty, kFull, PIPES };
static const size_t bytes_in[2][PIPES] = {{3000, 100, 200000, 777, 0, 65536}, {1, 5000, 100000, 777, 20, 65536}};
#define READ_END(i) (200 + 2 * (i))
#define WRITE_END(i) (201 + 2 * (i))
static bool has_writer(int i) { return i != kNoWriter; }
static uint64_t seed(int i) { return 1100 + (uint64_t)i + 50 * (i == kNoWriter ? 0 : victim_state); }

static void put(int i, size_t bytes, uint64_t with) {
  unsigned char* p = malloc(bytes + 1);
  fill(p, bytes, with);
  CHECK(write(WRITE_END(i), p, bytes) == (ssize_t)bytes, "writing to pipe %d: %s", i, strerror(errno));
  free(p);
}
static void drain(int i) {
  char buffer[4096];
  int left = 0;
  while (ioctl(READ_END(i), FIONREAD, &left) == 0 && left > 0) MUST(read(READ_END(i), buffer, sizeof buffer));
}
static void make(void) {
  for (int i = 0; i < PIPES; ++i) {
    int ends[2];
    MUST(pipe2(ends, O_CLOEXEC | (i == kNonBlocking ? O_NONBLOCK : 0)));
    MUST(dup3(ends[0], READ_END(i), O_CLOEXEC));
    MUST(dup2(ends[1], WRITE_END(i)));
    close(ends[0]);
    close(ends[1]);
    if (i == kLarge) MUST(fcntl(WRITE_END(i), F_SETPIPE_SZ, 1 << 18));
    put(i, bytes_in[0][i], seed(i));
  }
  close(WRITE_END(kNoWriter));
}
static void become(unsigned state) {
  for (int i = 0; i < PIPES; ++i) {
    if (!has_writer(i)) continue;
    drain(i);
    put(i, bytes_in[state % 2][i], seed(i));
  }
}
static void verify(void) {
  int open_ones[3 + 2 * PIPES] = {0, 1, 2};
  size_t count = 3;
  for (int i = 0; i < PIPES; ++i) {
    open_ones[count++] = READ_END(i);
    if (has_writer(i)) open_ones[count++] = WRITE_END(i);
    int left = -1;
    const size_t want = bytes_in[victim_state % 2][i];
    if (ioctl(READ_END(i), FIONREAD, &left) != 0 || (size_t)left != want) {
      victim_fail("pipe %d holds %d bytes, want %zu", i, left, want);
      continue;
    }
    CHECK(fcntl(READ_END(i), F_GETPIPE_SZ) == (i == kLarge ? 1 << 18 : 65536), "capacity of pipe %d is %d", i,
          fcntl(READ_END(i), F_GETPIPE_SZ));
    CHECK((fcntl(READ_END(i), F_GETFL) & O_NONBLOCK) == (i == kNonBlocking ? O_NONBLOCK : 0), "flags of pipe %d differ",
          i);
    CHECK_EQUAL("close-on-exec of a read end", fcntl(READ_END(i), F_GETFD), FD_CLOEXEC);
    if (has_writer(i)) CHECK_EQUAL("close-on-exec of a write end", fcntl(WRITE_END(i), F_GETFD), 0);
    // tee(2) copies and takes nothing.
    int copy[2];
    MUST(pipe(copy));
    MUST(fcntl(copy[0], F_SETPIPE_SZ, 1 << 18));
    unsigned char* bytes = malloc(want + 1);
    size_t got = 0;
    if (want != 0) CHECK(tee(READ_END(i), copy[1], want, 0) == (ssize_t)want, "tee from pipe %d gives less", i);
    close(copy[1]);
    for (ssize_t n; got < want && (n = read(copy[0], bytes + got, want - got)) > 0;) got += (size_t)n;
    close(copy[0]);
    CHECK(got == want && filled(bytes, want, seed(i)), "bytes in pipe %d differ", i);
    free(bytes);
  }
  check_descriptors(open_ones, count);
  // Both ends are of one pipe: what goes in comes out.
  put(kEmpty, 8, 5);
  drain(kEmpty);
  if (bytes_in[victim_state % 2][kEmpty] != 0) put(kEmpty, bytes_in[victim_state % 2][kEmpty], seed(kEmpty));
}
static void wreck(unsigned round) {
  for (int i = 0; i < PIPES; ++i) {
    if (round % 2 == 0) drain(i);
    if (has_writer(i) && i != kFull) put(i, 50, 9);
  }
  if (round % 3 >= 1) {
    close(WRITE_END(kSome));
    close(READ_END(kNonBlocking));
    close(READ_END(kEmpty));
    close(WRITE_END(kEmpty));
  }
  if (round % 3 == 2) {
    close(READ_END(kNoWriter));
    MUST(pipe((int[2]){0}));
    MUST(open("/dev/null", O_RDONLY));
    dup2(READ_END(kFull), READ_END(kLarge));
  }
  fcntl(READ_END(kFull), F_SETFL, O_NONBLOCK);
  fcntl(READ_END(kSome), F_SETPIPE_SZ, 1 << 17);
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
