// Pipes in packet mode (O_DIRECT): where one packet ends and the next begins; packets behind a writer that writes a
// stream by now, and a stream behind one that writes packets by now.
#include "victim.h"

#include <sys/ioctl.h>

enum { kPackets, kEmpty, kStreamBy, kPacketsBy, PIPES };
#define READ_END(i) (240 + 2 * (i))
#define WRITE_END(i) (241 + 2 * (i))
static const size_t sizes[2][4] = {{3, 4096, 1, 700}, {5, 1, 1, 0}};

static bool in_packets(int i) { return i == kPackets || i == kStreamBy; }
static bool writes_packets(int i) { return i == kPackets || i == kEmpty || i == kPacketsBy; }
static uint64_t seed(int i, int packet) { return 1500 + (uint64_t)(i * 10 + packet) + 100 * victim_state; }
static void set_mode(int i, bool packets) {
  const int flags = MUST(fcntl(WRITE_END(i), F_GETFL));
  MUST(fcntl(WRITE_END(i), F_SETFL, packets ? flags | O_DIRECT : flags & ~O_DIRECT));
}
static void put_all(int i) {
  unsigned char bytes[4096];
  set_mode(i, in_packets(i));
  for (int packet = 0; packet < 4 && i != kEmpty; ++packet) {
    const size_t size = sizes[victim_state % 2][packet];
    fill(bytes, size, seed(i, packet));
    if (size != 0) CHECK(write(WRITE_END(i), bytes, size) == (ssize_t)size, "writing: %s", strerror(errno));
  }
  set_mode(i, writes_packets(i));
}
static void drain(int i) {
  char bytes[8192];
  for (int left = 0; ioctl(READ_END(i), FIONREAD, &left) == 0 && left > 0;)
    MUST(read(READ_END(i), bytes, sizeof bytes));
}
static void make(void) {
  for (int i = 0; i < PIPES; ++i) {
    int ends[2];
    MUST(pipe2(ends, O_DIRECT | O_NONBLOCK));
    MUST(dup2(ends[0], READ_END(i)));
    MUST(dup2(ends[1], WRITE_END(i)));
    close(ends[0]);
    close(ends[1]);
    put_all(i);
  }
}
static void become(unsigned state) {
  (void)state;
  for (int i = 0; i < PIPES; ++i) {
    drain(i);
    put_all(i);
  }
}
static void verify(void) {
  int open_ones[3 + 2 * PIPES] = {0, 1, 2};
  size_t count = 3;
  for (int i = 0; i < PIPES; ++i) {
    open_ones[count++] = READ_END(i);
    open_ones[count++] = WRITE_END(i);
    CHECK(((fcntl(WRITE_END(i), F_GETFL) & O_DIRECT) != 0) == writes_packets(i), "the mode of pipe %d differs", i);
    unsigned char wanted[8192], got[8192];
    size_t end = 0;
    for (int packet = 0; packet < 4 && i != kEmpty; ++packet) {
      const size_t size = sizes[victim_state % 2][packet];
      fill(wanted + end, size, seed(i, packet));
      end += size;
      if (size == 0 || !in_packets(i)) continue;
      const ssize_t read_now = read(READ_END(i), got, sizeof got);
      CHECK(read_now == (ssize_t)size && memcmp(got, wanted + end - size, size) == 0,
            "packet %d of pipe %d: %zd bytes, want %zu", packet, i, read_now, size);
    }
    if (!in_packets(i)) {
      const ssize_t read_now = end == 0 ? 0 : read(READ_END(i), got, sizeof got);
      CHECK(read_now == (ssize_t)end && memcmp(got, wanted, end) == 0, "pipe %d: %zd bytes, want %zu", i, read_now,
            end);
    }
    CHECK(read(READ_END(i), got, sizeof got) == -1 && errno == EAGAIN, "pipe %d holds more", i);
    put_all(i);
  }
  check_descriptors(open_ones, count);
}
static void wreck(unsigned round) {
  char some[5000] = "";
  for (int i = 0; i < PIPES; ++i) {
    if (round % 2 == 0) drain(i);
    CHECK(write(WRITE_END(i), some, 10) == 10 && write(WRITE_END(i), some, 5) == 5, "writing: %s", strerror(errno));
    set_mode(i, round % 2 == 0);
  }
  if (round % 3 == 1) {
    close(READ_END(kPackets));
    close(WRITE_END(kStreamBy));
    close(READ_END(kPacketsBy));
    close(WRITE_END(kPacketsBy));
  }
  if (round % 3 == 2) {  // the same bytes, in one packet
    drain(kPackets);
    size_t end = 0;
    for (int packet = 0; packet < 4; ++packet) {
      const size_t size = sizes[victim_state % 2][packet];
      fill((unsigned char*)some + end, size < 100 ? size : 100, seed(kPackets, packet));
      end += size < 100 ? size : 100;
    }
    set_mode(kPackets, false);
    CHECK(write(WRITE_END(kPackets), some, end) == (ssize_t)end, "writing: %s", strerror(errno));
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
