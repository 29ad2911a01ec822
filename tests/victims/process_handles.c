// pidfd_open(2): of the process itself, of a thread of it, of its parent, of a process that has ended.
#include "victim.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#define THREAD_FLAG O_EXCL  // PIDFD_THREAD (Linux 6.9)

enum { kSelf, kParent, kParentToo, kEnded, kThread, HANDLES };
#define FD(i) (260 + (i))
#define COPY 270
#define SET 271

static int handles = HANDLES;  // without the thread before Linux 6.9
static pid_t parent;
static struct worker worker;

static pid_t pid_of(int i) {
  const pid_t pids[HANDLES] = {getpid(), parent, parent, -1, worker.tid};
  return pids[i];
}
static void take(int fd, int as) {
  MUST(dup3(fd, as, O_CLOEXEC));
  close(fd);
}
static int open_handle(pid_t pid, unsigned flags) { return (int)syscall(SYS_pidfd_open, pid, flags); }
static void make(void) {
  parent = getppid();
  worker_start(&worker, 2600);
  for (int i = 0; i < kEnded; ++i) take(MUST(open_handle(pid_of(i), i == kParentToo ? O_NONBLOCK : 0)), FD(i));
  const pid_t child = MUST(fork());
  if (child == 0) _exit(0);
  take(MUST(open_handle(child, 0)), FD(kEnded));
  MUST(waitpid(child, NULL, 0));
  const int thread = open_handle(worker.tid, THREAD_FLAG);
  if (thread >= 0)
    take(thread, FD(kThread));
  else
    handles = kThread;
  MUST(dup2(FD(kParent), COPY));
  take(MUST(epoll_create1(0)), SET);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = FD(kParent)};
  MUST(epoll_ctl(SET, EPOLL_CTL_ADD, FD(kParent), &event));
}
static void verify(void) {
  int open[HANDLES + 5] = {0, 1, 2, COPY, SET};
  for (int i = 0; i < handles; ++i) open[5 + i] = FD(i);
  check_descriptors(open, (size_t)(5 + handles));
  for (int i = 0; i < handles; ++i) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", FD(i));
    read_text(path, text, sizeof text);
    const char* at = strstr(text, "\nPid:");
    CHECK(at != NULL && strtol(at + 5, NULL, 10) == pid_of(i), "handle %d is for another process: %s", i, text);
    const int n = poll(&(struct pollfd){.fd = FD(i), .events = POLLIN}, 1, 0);
    CHECK(n == (i == kEnded), "handle %d: poll says %d", i, n);
  }
  CHECK((fcntl(FD(kParentToo), F_GETFL) & O_NONBLOCK) != 0, "the flags differ");
  CHECK((fcntl(FD(kSelf), F_GETFL) & O_NONBLOCK) == 0, "the flags differ");
  if (handles > kThread) CHECK((fcntl(FD(kThread), F_GETFL) & THREAD_FLAG) != 0, "it is for a process, not a thread");
  struct epoll_event got;
  CHECK(epoll_wait(SET, &got, 1, 0) == 0, "the set reports the end of a process that lives");
  fcntl(COPY, F_SETFL, O_NONBLOCK);
  CHECK((fcntl(FD(kParent), F_GETFL) & O_NONBLOCK) != 0, "it is not shared");
  fcntl(COPY, F_SETFL, 0);
  worker_check(&worker, "the worker");
}
static void wreck(unsigned round) {
  fcntl(FD(kSelf), F_SETFL, O_NONBLOCK);
  switch (round % 5) {
    case 1:
      for (int i = 0; i < handles; ++i)
        if (i != kEnded) close(FD(i));
      break;
    case 2:
      MUST(dup2(FD(kEnded), FD(kParent)));
      MUST(dup2(FD(kSelf), FD(kParentToo)));
      close(COPY);
      break;
    case 3:
      close(SET);
      take(MUST(open_handle(getpid(), 0)), FD(kParent));
      break;
    case 4:
      worker_end(&worker);
      break;
    default:
      MUST(open_handle(parent, 0));
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck}); }
