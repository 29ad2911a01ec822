// timerfd(2): one-shot, periodic, absolute, disarmed; with unread expirations; in epoll sets; closed and replaced
// since.
#include "victim.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>

#ifndef TFD_TIMER_CANCEL_ON_SET
#define TFD_TIMER_CANCEL_ON_SET 2
#endif

enum { kOneShot, kAbsolute, kPeriodic, kDisarmed, kExpired, kTicking, kCancel, kOwn, kAlarm, TIMERS };
#define FD(i) (200 + (i))
#define SHARED 220
#define SET 221

struct plan {
  clockid_t clock;
  int flags;            // of timerfd_settime
  int left;             // seconds; 0: disarmed, -1: expires at once
  int interval;         // seconds
  unsigned long ticks;  // unread
};
static const struct plan plans[2][TIMERS] = {{{CLOCK_MONOTONIC, 0, 9000, 0, 0},
                                              {CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, 8000, 0, 0},
                                              {CLOCK_BOOTTIME, 0, 7000, 600, 0},
                                              {CLOCK_REALTIME, 0, 0, 0, 0},
                                              {CLOCK_REALTIME, 0, -1, 0, 1},
                                              {CLOCK_MONOTONIC, 0, -1, 6000, 1},
                                              {CLOCK_REALTIME, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, 9500, 0, 0},
                                              {CLOCK_MONOTONIC, 0, 5000, 0, 0},
                                              {CLOCK_BOOTTIME_ALARM, 0, 9900, 0, 0}},
                                             {{CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, 5000, 0, 0},
                                              {CLOCK_MONOTONIC, 0, 0, 0, 0},
                                              {CLOCK_BOOTTIME, 0, 4000, 700, 0},
                                              {CLOCK_REALTIME, 0, -1, 0, 1},
                                              {CLOCK_REALTIME, 0, 6000, 0, 0},
                                              {CLOCK_MONOTONIC, 0, 3000, 20, 0},
                                              {CLOCK_REALTIME, TFD_TIMER_ABSTIME, 9100, 0, 0},
                                              {CLOCK_MONOTONIC, 0, 7000, 0, 0},
                                              {CLOCK_BOOTTIME_ALARM, 0, 4900, 0, 0}}};
static int timers = TIMERS;  // without the last one where this user may not wake the machine
static const struct plan* plan_of(int i) { return &plans[victim_state % 2][i]; }

static void set(int fd, const struct plan* p) {
  struct itimerspec time = {.it_value = {.tv_sec = p->left}, .it_interval = {.tv_sec = p->interval}};
  if (p->left < 0) time.it_value = (struct timespec){.tv_nsec = 1};
  if (p->left > 0 && (p->flags & TFD_TIMER_ABSTIME) != 0) {
    clock_gettime(p->clock, &time.it_value);
    time.it_value.tv_sec += p->left;
  }
  if (timerfd_settime(fd, p->flags, &time, NULL) != 0) victim_fail("timerfd_settime: %s", strerror(errno));
  if (p->ticks != 0) poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, -1);
}
static void become(unsigned state) {
  for (int i = 0; i < timers; ++i) set(FD(i), &plans[state % 2][i]);
}
static void take(int fd, int as) {
  MUST(dup3(fd, as, O_CLOEXEC));
  close(fd);
}
static void watch(int i, uint32_t events) {
  struct epoll_event event = {.events = events, .data.u64 = (uint64_t)i};
  if (epoll_ctl(SET, EPOLL_CTL_ADD, FD(i), &event) != 0) victim_fail("epoll_ctl: %s", strerror(errno));
}
static void make(void) {
  for (int i = 0; i < TIMERS; ++i) {
    const int fd = timerfd_create(plans[0][i].clock, i == kOneShot ? 0 : TFD_NONBLOCK);
    if (fd < 0 && i == kAlarm && errno == EPERM) {
      timers = kAlarm;
      break;
    }
    take(MUST(fd), FD(i));
  }
  MUST(dup2(FD(kPeriodic), SHARED));
  take(MUST(epoll_create1(0)), SET);
  watch(kOneShot, EPOLLIN);
  watch(kExpired, EPOLLIN);
  watch(kTicking, EPOLLIN | EPOLLET);
  watch(kOwn, EPOLLIN | EPOLLONESHOT);
  become(0);
}
static bool reported(int i) {
  struct epoll_event got[8];
  const int n = epoll_wait(SET, got, 8, 0);
  for (int k = 0; k < n; ++k)
    if (got[k].data.u64 == (uint64_t)i) return true;
  return false;
}
static void verify(void) {
  int open[TIMERS + 5] = {0, 1, 2, SHARED, SET};
  for (int i = 0; i < timers; ++i) open[5 + i] = FD(i);
  check_descriptors(open, (size_t)(5 + timers));
  for (int i = 0; i < timers; ++i) {
    const struct plan* p = plan_of(i);
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", FD(i));
    read_text(path, text, sizeof text);
    const char* at = strstr(text, "clockid:");
    CHECK(at != NULL && strtol(at + 8, NULL, 10) == p->clock, "timer %d has another clock", i);
    at = strstr(text, "settime flags:");
    CHECK(at != NULL && strtol(at + 14, NULL, 8) == p->flags, "timer %d has other flags", i);
    at = strstr(text, "ticks:");
    CHECK(at != NULL && strtoul(at + 6, NULL, 10) == p->ticks, "timer %d: %s", i, text);
    struct itimerspec time = {0};
    if (timerfd_gettime(FD(i), &time) != 0) {
      victim_fail("timer %d is none", i);
      continue;
    }
    CHECK_EQUAL("interval", time.it_interval.tv_sec, p->interval);
    const long most = p->left > 0 ? p->left : p->left < 0 ? p->interval : 0;
    const long left = time.it_value.tv_sec;
    CHECK(left <= most && (most == 0 ? time.it_value.tv_nsec == 0 : left > most - 900), "timer %d: %ld s left of %ld",
          i, left, most);
  }
  CHECK((fcntl(FD(kOneShot), F_GETFL) & O_NONBLOCK) == 0, "the flags differ");
  CHECK((fcntl(FD(kAbsolute), F_GETFL) & O_NONBLOCK) != 0, "the flags differ");
  struct itimerspec disarm = {0}, before = {0}, shared = {0};
  timerfd_gettime(FD(kPeriodic), &before);
  timerfd_settime(SHARED, 0, &disarm, NULL);
  timerfd_gettime(FD(kPeriodic), &shared);
  CHECK(shared.it_value.tv_sec == 0 && shared.it_value.tv_nsec == 0, "it is not shared");
  if (before.it_value.tv_sec != 0) timerfd_settime(SHARED, 0, &before, NULL);
  // What is unread is read once, and put back.
  for (int i = 0; i < timers; ++i) {
    if (i == kOneShot) continue;
    uint64_t ticks = 0;
    const ssize_t n = read(FD(i), &ticks, sizeof ticks);
    if (plan_of(i)->ticks == 0) {
      CHECK(n == -1 && errno == EAGAIN, "timer %d: reading it says %s", i, n == 8 ? "it expired" : strerror(errno));
    } else {
      CHECK(n == 8 && ticks == plan_of(i)->ticks, "timer %d: %llu expirations", i, (unsigned long long)ticks);
      set(FD(i), plan_of(i));
    }
  }
  CHECK(!reported(kOneShot), "the set reports a timer that has not expired");
  CHECK(reported(kExpired) == (plan_of(kExpired)->ticks != 0), "the set is wrong about an expired timer");
  // An expiration comes through to the set.
  struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = kOwn};
  CHECK(epoll_ctl(SET, EPOLL_CTL_MOD, FD(kOwn), &event) == 0, "arming: %s", strerror(errno));
  set(FD(kOwn), &(struct plan){.left = -1, .ticks = 1});
  CHECK(reported(kOwn), "the set does not report a timer that has expired");
  set(FD(kOwn), plan_of(kOwn));
  CHECK(epoll_ctl(SET, EPOLL_CTL_MOD, FD(kOwn), &event) == 0, "arming: %s", strerror(errno));
}
static void wreck(unsigned round) {
  for (int i = 0; i < timers; ++i) {
    const struct plan other = {
        .clock = plans[0][i].clock, .left = round % 2 == 0 ? 20000 : -1, .interval = 2000, .ticks = round % 2};
    set(FD(i), &other);
  }
  fcntl(FD(kOneShot), F_SETFL, O_NONBLOCK);
  fcntl(FD(kAbsolute), F_SETFL, 0);
  uint64_t ticks;
  if (round % 2 == 1 && read(FD(kTicking), &ticks, 8) != 8) victim_fail("nothing to read");
  switch (round % 5) {
    case 1:  // closed
      for (int i = 0; i < timers; ++i) close(FD(i));
      break;
    case 2:  // other clocks, other kinds, other numbers
      take(MUST(timerfd_create(CLOCK_BOOTTIME, 0)), FD(kOneShot));
      MUST(dup2(SET, FD(kExpired)));
      MUST(dup2(FD(kTicking), FD(kPeriodic)));
      MUST(dup2(FD(kDisarmed), FD(kTicking)));
      break;
    case 3:
      close(SHARED);
      close(SET);
      break;
    case 4:
      for (int i = 0; i < timers; ++i) set(FD(i), &(struct plan){.left = 0});
      epoll_ctl(SET, EPOLL_CTL_DEL, FD(kExpired), NULL);
      MUST(fcntl(FD(kDisarmed), F_DUPFD, 300));
      break;
    default:
      MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
