// epoll(7): entries whose file has left the number that it was added by, and lives on under another; two entries by one
// number; one-shot entries that have fired; an edge that was taken.
#include "victim.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#define SET 170
#define MOVED_FROM 180  // closed
#define TWICE 181       // another file, which is watched, too
#define FIRED 182
#define ARMED 183
#define EDGE 184
#define MOVED_TO 200
#define TWICE_OLD 201

static uint64_t data(int i) { return 0x55500000000ull + (uint64_t)i * 16 + victim_state; }
static int control(int operation, int fd, uint32_t events, uint64_t d) {
  struct epoll_event event = {.events = events, .data.u64 = d};
  return epoll_ctl(SET, operation, fd, &event);
}
static void take(int fd, int as) {
  MUST(dup3(fd, as, O_CLOEXEC));
  close(fd);
}
// Moves a watched file away from its number.
static void add_and_move(int number, int to, uint64_t d) {
  take(MUST(eventfd(0, EFD_NONBLOCK)), number);
  MUST(control(EPOLL_CTL_ADD, number, EPOLLIN, d));
  MUST(dup3(number, to, O_CLOEXEC));
  close(number);
}
static void fire(void) {
  struct epoll_event got[8];
  eventfd_write(FIRED, 1);
  eventfd_write(EDGE, 1);
  epoll_wait(SET, got, 8, 0);
}
static void build(void) {
  add_and_move(MOVED_FROM, MOVED_TO, data(0));
  add_and_move(TWICE, TWICE_OLD, data(1));
  take(MUST(eventfd(0, EFD_NONBLOCK)), TWICE);
  MUST(control(EPOLL_CTL_ADD, TWICE, EPOLLIN, data(2)));
  take(MUST(eventfd(0, EFD_NONBLOCK)), FIRED);
  MUST(control(EPOLL_CTL_ADD, FIRED, EPOLLIN | EPOLLONESHOT, data(3)));
  take(MUST(eventfd(0, EFD_NONBLOCK)), ARMED);
  MUST(control(EPOLL_CTL_ADD, ARMED, EPOLLIN | EPOLLONESHOT, data(4)));
  take(MUST(eventfd(0, EFD_NONBLOCK)), EDGE);
  MUST(control(EPOLL_CTL_ADD, EDGE, EPOLLIN | EPOLLET, data(5)));
  fire();
}
static void make(void) {
  take(MUST(epoll_create1(EPOLL_CLOEXEC)), SET);
  build();
}
static void become(unsigned state) {
  (void)state;
  close(SET);
  close(MOVED_TO);
  close(TWICE_OLD);
  make();
}
// How often the set reports these data, and what else (into `others`), but for the edge.
static int reported(uint64_t d, int* others) {
  struct epoll_event got[16];
  const int n = epoll_wait(SET, got, 16, 0);
  int found = 0;
  for (int i = 0; i < n; ++i) {
    if (got[i].data.u64 == d)
      ++found;
    else if (got[i].data.u64 != data(5))
      ++*others;
  }
  return found;
}
static void check_live(int fd, int i) {
  int others = 0;
  CHECK_EQUAL("reports without a cause", reported(data(i), &others) + others, 0);
  eventfd_write(fd, 1);
  CHECK_EQUAL("reports of an entry by an old number", reported(data(i), &others), 1);
  CHECK_EQUAL("reports of others", others, 0);
  eventfd_t count;
  CHECK(eventfd_read(fd, &count) == 0 && count == 1, "the eventfd differs");
}
static void verify(void) {
  check_descriptors((int[]){0, 1, 2, SET, TWICE, FIRED, ARMED, EDGE, MOVED_TO, TWICE_OLD}, 10);
  char path[64], text[4096], *rest = NULL;
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", SET);
  read_text(path, text, sizeof text);
  int count = 0, twice = 0;
  for (char* line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
    int fd;
    unsigned e;
    unsigned long long d;
    if (sscanf(line, "tfd: %d events: %x data: %llx", &fd, &e, &d) != 3) continue;
    ++count;
    twice += fd == TWICE;
    if (fd == FIRED) CHECK((e & EPOLLIN) == 0 && (e & EPOLLONESHOT) != 0, "the entry that fired has events %x", e);
    if (fd == ARMED) CHECK((e & EPOLLIN) != 0 && (e & EPOLLONESHOT) != 0, "the armed entry has events %x", e);
  }
  CHECK_EQUAL("entries", count, 6);
  CHECK_EQUAL("entries by one number", twice, 2);
  check_live(MOVED_TO, 0);
  check_live(TWICE_OLD, 1);
  check_live(TWICE, 2);
  eventfd_t one;
  CHECK(eventfd_read(FIRED, &one) == 0 && one == 1, "the eventfd whose entry has fired differs");
  eventfd_write(FIRED, 1);
}
static void wreck(unsigned round) {
  switch (round % 5) {
    case 0:  // goes home, and is watched no more
      MUST(dup3(MOVED_TO, MOVED_FROM, 0));
      control(EPOLL_CTL_DEL, MOVED_FROM, 0, 0);
      control(EPOLL_CTL_DEL, TWICE, 0, 0);
      break;
    case 1:
      close(MOVED_TO);
      close(TWICE_OLD);
      break;
    case 2:
      close(SET);
      break;
    case 3:  // more of them
      add_and_move(210, 211, 7);
      control(EPOLL_CTL_MOD, FIRED, EPOLLIN | EPOLLONESHOT, 8);
      control(EPOLL_CTL_MOD, ARMED, EPOLLONESHOT, 8);
      close(EDGE);
      break;
    default:
      MUST(dup3(TWICE, MOVED_FROM, 0));
      MUST(dup3(TWICE_OLD, TWICE, 0));
      close(TWICE_OLD);
      MUST(control(EPOLL_CTL_MOD, TWICE, EPOLLOUT, 9));
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
