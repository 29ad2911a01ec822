// signalfd(2): masks changed since; closed and replaced since; a signal that waits to be read; in an epoll set.
#include "victim.h"

#include <sys/epoll.h>
#include <sys/signalfd.h>

enum { kOne, kMany, kNone, kShared, FILES };
#define FD(i) (230 + (i))
#define COPY 240
#define SET 241
#define UNREAD (SIGRTMIN + 5)  // one of it waits, and is never taken for good

static sigset_t mask_of(int i, unsigned state) {
  sigset_t mask;
  sigemptyset(&mask);
  if (i == kOne) sigaddset(&mask, state % 2 == 0 ? SIGUSR1 : SIGUSR2);
  if (i == kMany) {
    sigfillset(&mask);  // the kernel takes SIGKILL and SIGSTOP out
    sigdelset(&mask, state % 2 == 0 ? SIGHUP : SIGINT);
    sigdelset(&mask, UNREAD);
  }
  if (i == kShared) sigaddset(&mask, UNREAD);
  return mask;
}
static void become(unsigned state) {
  for (int i = 0; i < FILES; ++i) {
    const sigset_t mask = mask_of(i, state);
    if (signalfd(FD(i), &mask, 0) != FD(i)) victim_fail("signalfd: %s", strerror(errno));
  }
}
static void take(int fd, int as) {
  MUST(dup3(fd, as, O_CLOEXEC));
  close(fd);
}
static void make(void) {
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  sigaddset(&blocked, SIGUSR2);
  sigaddset(&blocked, SIGHUP);
  sigaddset(&blocked, UNREAD);
  sigprocmask(SIG_BLOCK, &blocked, NULL);
  for (int i = 0; i < FILES; ++i) {
    const sigset_t mask = mask_of(i, 0);
    take(MUST(signalfd(-1, &mask, i == kNone ? 0 : SFD_NONBLOCK)), FD(i));
  }
  MUST(dup2(FD(kShared), COPY));
  take(MUST(epoll_create1(0)), SET);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = FD(kOne)};
  MUST(epoll_ctl(SET, EPOLL_CTL_ADD, FD(kOne), &event));
  sigqueue(getpid(), UNREAD, (union sigval){.sival_int = 77});
}
static void verify(void) {
  check_descriptors((int[]){0, 1, 2, FD(0), FD(1), FD(2), FD(3), COPY, SET}, 9);
  for (int i = 0; i < FILES; ++i) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", FD(i));
    read_text(path, text, sizeof text);
    sigset_t wanted = mask_of(i, victim_state);
    uint64_t mask = 0;
    for (int n = 1; n <= 64; ++n)
      if (n != SIGKILL && n != SIGSTOP && sigismember(&wanted, n) == 1) mask |= 1ull << (n - 1);
    if (i == kMany) mask |= 3ull << 31;  // sigfillset(3) leaves out the two signals of the C library
    const char* at = strstr(text, "sigmask:");
    uint64_t got = at == NULL ? 0 : strtoull(at + 8, NULL, 16);
    if (i == kMany) got |= 3ull << 31;
    CHECK(at != NULL && got == mask, "mask of signalfd %d is %llx, want %llx", i, (unsigned long long)got,
          (unsigned long long)mask);
  }
  struct signalfd_siginfo info = {0};
  CHECK((fcntl(FD(kNone), F_GETFL) & O_NONBLOCK) == 0, "the flags differ");
  struct epoll_event got;
  CHECK(epoll_wait(SET, &got, 1, 0) == 0, "the set reports a signal that nobody sent");
  const int signal = victim_state % 2 == 0 ? SIGUSR1 : SIGUSR2;
  kill(getpid(), signal);
  CHECK(epoll_wait(SET, &got, 1, 0) == 1 && got.data.fd == FD(kOne), "the set does not report a signal");
  CHECK(read(FD(kOne), &info, sizeof info) == sizeof info && (int)info.ssi_signo == signal, "the signal is not read");
  CHECK(read(FD(kOne), &info, sizeof info) == -1 && errno == EAGAIN, "a signal nobody sent");
  CHECK(read(COPY, &info, sizeof info) == sizeof info && (int)info.ssi_signo == UNREAD && info.ssi_int == 77,
        "what was unread is gone");
  sigqueue(getpid(), UNREAD, (union sigval){.sival_int = 77});
}
static void wreck(unsigned round) {
  sigset_t other;
  sigemptyset(&other);
  sigaddset(&other, SIGRTMIN + 1);
  struct signalfd_siginfo info;
  if (round % 2 == 0 && read(COPY, &info, sizeof info) != sizeof info) victim_fail("nothing unread");
  for (int i = 0; i < FILES; ++i) signalfd(FD(i), &other, 0);
  fcntl(FD(kNone), F_SETFL, O_NONBLOCK);
  switch (round % 4) {
    case 1:
      for (int i = 0; i < FILES; ++i) close(FD(i));
      break;
    case 2:
      MUST(dup2(FD(kNone), FD(kOne)));
      MUST(dup2(2, FD(kMany)));
      close(COPY);
      break;
    case 3:
      close(SET);
      close(FD(kShared));
      MUST(signalfd(-1, &other, 0));
      break;
    default:
      MUST(signalfd(-1, &other, 0));
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
