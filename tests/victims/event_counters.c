// eventfd(2): counts, semaphores, flags; closed and replaced since.
#include "victim.h"

#include <sys/eventfd.h>

enum { kPlain, kSemaphore, kZero, kShared, COUNTERS };
static const uint64_t counts[2][COUNTERS] = {{7, 3, 0, 1ull << 40}, {1, 200, 0, 9}};
#define FD(i) (150 + (i))

static uint64_t count_of(int fd) {
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  read_text(path, text, sizeof text);
  const char* at = strstr(text, "eventfd-count:");
  return at == NULL ? UINT64_MAX : strtoull(at + 14, NULL, 16);
}
static void set(int fd, uint64_t to) {
  for (uint64_t taken; count_of(fd) != 0 && read(fd, &taken, 8) == 8;) {
  }
  if (to != 0) CHECK(write(fd, &to, 8) == 8, "writing to an eventfd: %s", strerror(errno));
}
static void set_all(unsigned state) {
  for (int i = 0; i < COUNTERS; ++i) set(FD(i), counts[state % 2][i]);
}
static void make(void) {
  for (int i = 0; i < COUNTERS; ++i) {
    const int fd =
        MUST(eventfd(0, EFD_CLOEXEC | (i == kSemaphore ? EFD_SEMAPHORE : 0) | (i == kZero ? EFD_NONBLOCK : 0)));
    MUST(dup3(fd, FD(i), O_CLOEXEC));
    close(fd);
  }
  MUST(dup2(FD(kShared), 160));
  set_all(0);
}
static void verify(void) {
  check_descriptors((int[]){0, 1, 2, FD(0), FD(1), FD(2), FD(3), 160}, 8);
  for (int i = 0; i < COUNTERS; ++i) CHECK_EQUAL("count of an eventfd", count_of(FD(i)), counts[victim_state % 2][i]);
  CHECK_EQUAL("count of a shared eventfd", count_of(160), counts[victim_state % 2][kShared]);
  uint64_t value = 0;
  if (count_of(FD(kSemaphore)) != 0 && count_of(FD(kSemaphore)) != UINT64_MAX) {
    CHECK(read(FD(kSemaphore), &value, 8) == 8 && value == 1, "the semaphore is none");
    CHECK(write(FD(kSemaphore), &value, 8) == 8, "the semaphore cannot be written");
  }
  CHECK((fcntl(FD(kZero), F_GETFL) & O_NONBLOCK) != 0, "the flags differ");
  if ((fcntl(FD(kZero), F_GETFL) & O_NONBLOCK) != 0)
    CHECK(read(FD(kZero), &value, 8) == -1 && errno == EAGAIN, "reading a zero: %s", strerror(errno));
  value = 1;
  CHECK(write(160, &value, 8) == 8 && count_of(FD(kShared)) == counts[victim_state % 2][kShared] + 1,
        "it is not shared");
  set(FD(kShared), counts[victim_state % 2][kShared]);
}
static void wreck(unsigned round) {
  for (int i = 0; i < COUNTERS; ++i) set(FD(i), 1000 + round);
  fcntl(FD(kZero), F_SETFL, 0);
  if (round % 2 == 1) {
    close(FD(kPlain));
    close(FD(kShared));
    dup2(FD(kZero), FD(kSemaphore));
  }
  if (round % 3 == 2) close(160);
  MUST(eventfd(5, 0));
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set_all});
}
