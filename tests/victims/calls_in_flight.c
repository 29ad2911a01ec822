// Threads inside system calls, of every way the kernel restarts them: some wait for ever, some for a few milliseconds
// again and again. None may ever see EINTR, or anything else it could not have seen without relive.
#include "victim.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

static int silent_pipe[2], silent_socket[2], set_of_nothing, silent_event, deaf_listener, impatient_listener,
    impatient_socket[2];
static atomic_int silent_word;

static const struct timespec kLong = {.tv_sec = 36000}, kShort = {.tv_nsec = 3000000};
static const struct timespec* span(bool brief) { return brief ? &kShort : &kLong; }
static int milliseconds(bool brief) { return brief ? 3 : 36000000; }

// Each makes the call once: 0 if it ended as it may (only the brief ones end at all), else what it saw.
static int expect(long result, long want, int want_errno) {
  if (result == want && (want != -1 || errno == want_errno)) return 0;
  return result == -1 ? errno : 10000;
}
static int do_nanosleep(bool brief) { return expect(syscall(SYS_nanosleep, span(brief), NULL), 0, 0); }
static int do_sleep_until(bool brief) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  t.tv_sec += span(brief)->tv_sec;
  if (brief) t.tv_nsec = t.tv_nsec + 3000000 > 999999999 ? 999999999 : t.tv_nsec + 3000000;
  return expect(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL), 0, 0);
}
static int do_clock_sleep(bool brief) {
  return expect(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, span(brief), NULL), 0, 0);
}
static int do_poll(bool brief) {
  struct pollfd p = {.fd = silent_pipe[0], .events = POLLIN};
  return expect(syscall(SYS_poll, &p, 1, milliseconds(brief)), 0, 0);
}
static int do_ppoll(bool brief) {
  struct pollfd p = {.fd = silent_pipe[0], .events = POLLIN};
  struct timespec t = *span(brief);
  return expect(syscall(SYS_ppoll, &p, 1, &t, NULL, 8), 0, 0);
}
static int do_select(bool brief) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(silent_pipe[0], &set);
  struct timeval t = {span(brief)->tv_sec, span(brief)->tv_nsec / 1000};
  return expect(syscall(SYS_select, silent_pipe[0] + 1, &set, NULL, NULL, &t), 0, 0);
}
static int do_pselect(bool brief) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(silent_pipe[0], &set);
  struct timespec t = *span(brief);
  return expect(syscall(SYS_pselect6, silent_pipe[0] + 1, &set, NULL, NULL, &t, NULL), 0, 0);
}
static int do_epoll(bool brief) {
  struct epoll_event e;
  return expect(syscall(SYS_epoll_wait, set_of_nothing, &e, 1, milliseconds(brief)), 0, 0);
}
static int do_epoll_for_ever(bool brief) {
  struct epoll_event e;
  return expect(syscall(SYS_epoll_pwait, set_of_nothing, &e, 1, brief ? 3 : -1, NULL, 8), 0, 0);
}
static int do_futex(bool brief) {
  return expect(syscall(SYS_futex, &silent_word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, span(brief), NULL, 0), -1,
                ETIMEDOUT);
}
static int do_futex_for_ever(bool brief) {
  return expect(syscall(SYS_futex, &silent_word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, brief ? &kShort : NULL, NULL, 0),
                -1, ETIMEDOUT);
}
static int do_futex_until(bool brief) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  t.tv_sec += span(brief)->tv_sec;
  if (brief) t.tv_nsec = t.tv_nsec + 3000000 > 999999999 ? 999999999 : t.tv_nsec + 3000000;
  return expect(syscall(SYS_futex, &silent_word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, &t, NULL, -1), -1,
                ETIMEDOUT);
}
static int do_signal_wait(bool brief) {
  const uint64_t set = 1ull << (SIGUSR2 - 1);
  return expect(syscall(SYS_rt_sigtimedwait, &set, NULL, span(brief), 8), -1, EAGAIN);
}
static int do_pipe_read(bool brief) {
  char byte;
  return brief ? 0 : expect(syscall(SYS_read, silent_pipe[0], &byte, 1), 1, 0);
}
static int do_event_read(bool brief) {
  uint64_t value;
  return brief ? 0 : expect(syscall(SYS_read, silent_event, &value, 8), 8, 0);
}
static int do_receive(bool brief) {
  char byte;
  return brief ? 0 : expect(syscall(SYS_recvfrom, silent_socket[0], &byte, 1, 0, NULL, NULL), 1, 0);
}
static int do_accept(bool brief) {
  return brief ? 0 : expect(syscall(SYS_accept4, deaf_listener, NULL, NULL, 0), 0, 0);
}
// With SO_RCVTIMEO the kernel does not restart of itself: signal(7).
static int do_receive_impatiently(bool brief) {
  char byte;
  return brief ? expect(syscall(SYS_recvfrom, impatient_socket[0], &byte, 1, 0, NULL, NULL), -1, EAGAIN)
               : expect(syscall(SYS_recvfrom, impatient_socket[1], &byte, 1, 0, NULL, NULL), 1, 0);
}
static int do_accept_impatiently(bool brief) {
  return brief ? 0 : expect(syscall(SYS_accept4, impatient_listener, NULL, NULL, 0), 0, 0);
}
static int do_pause(bool brief) { return brief ? 0 : expect(syscall(SYS_pause), 0, 0); }
static int do_suspend(bool brief) {
  const uint64_t mask = 0;
  return brief ? 0 : expect(syscall(SYS_rt_sigsuspend, &mask, 8), 0, 0);
}

static struct call {
  const char* name;
  long number;
  int (*once)(bool brief);
  bool has_brief;
  pid_t tid;
  atomic_long rounds;
  atomic_int seen;        // by the long one
  atomic_int brief_seen;  // by the brief one
} calls[] = {
    {.name = "nanosleep", .number = SYS_nanosleep, .once = do_nanosleep, .has_brief = true},
    {.name = "clock_nanosleep", .number = SYS_clock_nanosleep, .once = do_clock_sleep, .has_brief = true},
    {.name = "clock_nanosleep until", .number = SYS_clock_nanosleep, .once = do_sleep_until, .has_brief = true},
    {.name = "poll", .number = SYS_poll, .once = do_poll, .has_brief = true},
    {.name = "ppoll", .number = SYS_ppoll, .once = do_ppoll, .has_brief = true},
    {.name = "select", .number = SYS_select, .once = do_select, .has_brief = true},
    {.name = "pselect6", .number = SYS_pselect6, .once = do_pselect, .has_brief = true},
    {.name = "epoll_wait", .number = SYS_epoll_wait, .once = do_epoll, .has_brief = true},
    {.name = "epoll_pwait", .number = SYS_epoll_pwait, .once = do_epoll_for_ever, .has_brief = true},
    {.name = "futex with a timeout", .number = SYS_futex, .once = do_futex, .has_brief = true},
    {.name = "futex", .number = SYS_futex, .once = do_futex_for_ever, .has_brief = true},
    {.name = "futex until", .number = SYS_futex, .once = do_futex_until, .has_brief = true},
    {.name = "rt_sigtimedwait", .number = SYS_rt_sigtimedwait, .once = do_signal_wait, .has_brief = true},
    {.name = "read of a pipe", .number = SYS_read, .once = do_pipe_read},
    {.name = "read of an eventfd", .number = SYS_read, .once = do_event_read},
    {.name = "recvfrom", .number = SYS_recvfrom, .once = do_receive},
    {.name = "accept4", .number = SYS_accept4, .once = do_accept},
    {.name = "recvfrom with SO_RCVTIMEO", .number = SYS_recvfrom, .once = do_receive_impatiently, .has_brief = true},
    {.name = "accept4 with SO_RCVTIMEO", .number = SYS_accept4, .once = do_accept_impatiently},
    {.name = "pause", .number = SYS_pause, .once = do_pause},
    {.name = "rt_sigsuspend", .number = SYS_rt_sigsuspend, .once = do_suspend},
};
#define COUNT ((int)(sizeof calls / sizeof calls[0]))

static void* wait_long(void* argument) {
  struct call* c = argument;
  c->tid = my_tid();
  for (;;) {
    const int seen = c->once(false);
    atomic_store(&c->seen, seen == 0 ? 20000 : seen);  // none of them can end
  }
  return NULL;
}
static void* wait_briefly(void* argument) {
  struct call* c = argument;
  for (;;) {
    const int seen = c->once(true);
    if (seen != 0) atomic_store(&c->brief_seen, seen);
    atomic_fetch_add(&c->rounds, 1);
  }
  return NULL;
}
static int listener(const char* name) {
  const int fd = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  strcpy(un.sun_path, name);
  unlink(name);
  MUST(bind(fd, (struct sockaddr*)&un, sizeof un));
  MUST(listen(fd, 5));
  return fd;
}
static void make(void) {
  MUST(pipe2(silent_pipe, O_CLOEXEC));
  MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, silent_socket));
  MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, impatient_socket));
  set_of_nothing = MUST(epoll_create1(EPOLL_CLOEXEC));
  silent_event = MUST(eventfd(0, EFD_CLOEXEC));
  deaf_listener = listener("deaf");
  impatient_listener = listener("impatient");
  const struct timeval hours = {.tv_sec = 36000}, moment = {.tv_usec = 4000};
  MUST(setsockopt(impatient_listener, SOL_SOCKET, SO_RCVTIMEO, &hours, sizeof hours));
  MUST(setsockopt(impatient_socket[0], SOL_SOCKET, SO_RCVTIMEO, &moment, sizeof moment));
  MUST(setsockopt(impatient_socket[1], SOL_SOCKET, SO_RCVTIMEO, &hours, sizeof hours));
  sigset_t usr2;
  sigemptyset(&usr2);
  sigaddset(&usr2, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &usr2, NULL);
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 65536);
  for (int i = 0; i < COUNT; ++i) {
    pthread_t thread;
    pthread_create(&thread, &small, wait_long, &calls[i]);
    if (calls[i].has_brief) pthread_create(&thread, &small, wait_briefly, &calls[i]);
  }
  for (int i = 0; i < COUNT; ++i) {
    while (*(volatile pid_t*)&calls[i].tid == 0) sched_yield();
    blocked_in(calls[i].tid);
  }
}
static void verify(void) {
  for (int i = 0; i < COUNT; ++i) {
    struct call* c = &calls[i];
    const long in = blocked_in(c->tid);
    CHECK(in == c->number || in == SYS_restart_syscall, "%s: the thread is in system call %ld", c->name, in);
    if (c->has_brief) {
      const long before = atomic_load(&c->rounds);
      for (const double until = now() + 20; atomic_load(&c->rounds) < before + 2 && now() < until;) sched_yield();
      CHECK(atomic_load(&c->rounds) >= before + 2, "%s: the brief one stands", c->name);
    }
    CHECK(atomic_load(&c->seen) == 0, "%s saw %d (%s)", c->name, c->seen, strerror(c->seen));
    CHECK(atomic_load(&c->brief_seen) == 0, "brief %s saw %d (%s)", c->name, c->brief_seen, strerror(c->brief_seen));
  }
}
// Makes as many of them return as can be.
static void wreck(unsigned round) {
  silent_word = 1;
  futex_wake(&silent_word);
  const uint64_t one = 1;
  MUST(write(silent_event, &one, 8));
  MUST(write(silent_socket[1], "x", 1));
  if (round % 2 == 0) MUST(write(silent_pipe[1], "xxxx", 4));
  for (int i = 0; i < COUNT; ++i) calls[i].seen = 77;
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck}); }
