// epoll(7): the entries of a set, changed, removed, added since; targets closed since; the set itself closed since.
#include "victim.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#define SET 170
#define OTHER_SET 171
enum { kLevel, kEdge, kOneShot, kPipe, TARGETS };
#define FD(i) (180 + (i))
#define PIPE_WRITE 190
static const uint32_t events[2][TARGETS] = {{EPOLLIN, EPOLLIN | EPOLLET, EPOLLIN | EPOLLONESHOT, EPOLLIN | EPOLLRDHUP},
                                            {EPOLLIN | EPOLLPRI, EPOLLIN | EPOLLOUT | EPOLLET, EPOLLIN, EPOLLIN}};
static uint64_t data(int i) { return 0x1234567800000000ull + (uint64_t)i * 16 + victim_state; }

static void control(int operation, int fd, uint32_t e, uint64_t d) {
  struct epoll_event event = {.events = e, .data.u64 = d};
  if (epoll_ctl(SET, operation, fd, &event) != 0) victim_fail("epoll_ctl: %s", strerror(errno));
}
static void become(unsigned state) {
  for (int i = 0; i < TARGETS; ++i) control(EPOLL_CTL_MOD, FD(i), events[state % 2][i], data(i));
}
static void take(int fd, int as) {
  MUST(dup3(fd, as, O_CLOEXEC));
  close(fd);
}
static void make(void) {
  take(MUST(epoll_create1(EPOLL_CLOEXEC)), SET);
  take(MUST(epoll_create1(EPOLL_CLOEXEC)), OTHER_SET);
  for (int i = 0; i < kPipe; ++i) take(MUST(eventfd(0, EFD_NONBLOCK)), FD(i));
  int ends[2];
  MUST(pipe(ends));
  take(ends[0], FD(kPipe));
  take(ends[1], PIPE_WRITE);
  for (int i = 0; i < TARGETS; ++i) control(EPOLL_CTL_ADD, FD(i), events[0][i], data(i));
  struct epoll_event event = {.events = EPOLLOUT, .data.fd = PIPE_WRITE};
  MUST(epoll_ctl(OTHER_SET, EPOLL_CTL_ADD, PIPE_WRITE, &event));
}
static void verify(void) {
  check_descriptors((int[]){0, 1, 2, SET, OTHER_SET, FD(0), FD(1), FD(2), FD(3), PIPE_WRITE}, 10);
  char path[64], text[4096], *rest = NULL;
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", SET);
  read_text(path, text, sizeof text);
  bool found[TARGETS] = {false};
  for (char* line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
    int fd;
    unsigned e;
    unsigned long long d;
    if (sscanf(line, "tfd: %d events: %x data: %llx", &fd, &e, &d) != 3) continue;
    const int i = fd - FD(0);
    if (i < 0 || i >= TARGETS || found[i]) {
      victim_fail("the set has an entry for descriptor %d", fd);
      continue;
    }
    found[i] = true;
    const uint32_t want = events[victim_state % 2][i] | EPOLLERR | EPOLLHUP;
    CHECK((e | EPOLLERR | EPOLLHUP) == want, "events of entry %d are %x, want %x", i, e, want);
    CHECK(d == data(i), "data of entry %d are %llx", i, d);
  }
  for (int i = 0; i < TARGETS; ++i) CHECK(found[i], "entry %d is missing", i);
  // Level triggered: says it as long as it is so.
  struct epoll_event got[8];
  uint64_t one = 1;
  if (fcntl(FD(kLevel), F_GETFD) < 0) return;
  while (epoll_wait(SET, got, 8, 0) > 0 && victim_state == 0) {
    victim_fail("the set reports %llx without a cause", (unsigned long long)got[0].data.u64);
    break;
  }
  CHECK(write(FD(kLevel), &one, 8) == 8, "write to the eventfd: %s", strerror(errno));
  int n = 0;
  for (int again = 0; again < 2; ++again) {
    n = epoll_wait(SET, got, 8, 0);
    bool reported = false;
    for (int k = 0; k < n; ++k) reported |= got[k].data.u64 == data(kLevel);
    CHECK(reported, "the set does not report its entry");
  }
  CHECK(read(FD(kLevel), &one, 8) == 8 && one == 1, "the eventfd differs");
  n = epoll_wait(OTHER_SET, got, 8, 0);
  CHECK(n == 1 && got[0].data.fd == PIPE_WRITE, "the other set does not report the pipe (%d)", n);
}
static void wreck(unsigned round) {
  control(EPOLL_CTL_MOD, FD(kLevel), EPOLLOUT, 5);
  control(EPOLL_CTL_DEL, FD(kEdge), 0, 0);
  const int fd = MUST(eventfd(1, 0));
  control(EPOLL_CTL_ADD, fd, EPOLLIN, 6);
  if (round % 3 == 1) close(FD(kOneShot));
  if (round % 3 == 2) {
    close(SET);
    close(FD(kPipe));
    close(PIPE_WRITE);
    MUST(dup2(OTHER_SET, SET));
  }
  if (round % 2 == 1) close(OTHER_SET);
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
