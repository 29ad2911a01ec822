// Tasks that share one descriptor table without being threads of each other (clone(2), CLONE_FILES): what one of them
// opens and closes, all of them have, and have no more.
#include "victim.h"

#include <linux/sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { CHILDREN = 2 };
#define ORDER(i) (300 + 4 * (i))  // a pipe: its reading end, its writing end
#define ANSWER(i) (302 + 4 * (i))
#define FILE_FD 320
#define COUNTER 321
#define MEMORY 322
#define BY_CHILD 330

static const int open_ones[] = {0, 1, 2, 300, 301, 302, 303, 304, 305, 306, 307, FILE_FD, COUNTER, MEMORY};
#define OPEN_ONES (sizeof open_ones / sizeof open_ones[0])
static pid_t children[CHILDREN];

static void put(int fd, int as) {
  MUST(dup3(fd, as, O_CLOEXEC));
  close(fd);
}
static void make_pipe(int as) {
  int ends[2];
  MUST(pipe2(ends, O_CLOEXEC));
  put(ends[0], as);
  put(ends[1], as + 1);
}
static _Noreturn void live(int i) {
  for (char order; read(ORDER(i), &order, 1) == 1;) {
    char answer = 'y';
    switch (order) {
      case '?':  // it sees the file where the others left it
        if (lseek(FILE_FD, 0, SEEK_CUR) != 11 || fcntl(BY_CHILD, F_GETFD) != -1) answer = 'n';
        break;
      case 'o':
        for (int n = 0; n < 5; ++n)
          if (eventfd(0, 0) < 0) answer = 'n';
        if (dup2(FILE_FD, BY_CHILD) < 0) answer = 'n';
        break;
      case 'c':
        close(FILE_FD);
        close(COUNTER);
        close(MEMORY);
        break;
      default:
        answer = 'n';
    }
    if (write(ANSWER(i) + 1, &answer, 1) != 1) break;
  }
  _exit(1);
}
static pid_t give_birth(int i) {
  struct clone_args args = {.flags = CLONE_FILES, .exit_signal = SIGCHLD};
  const pid_t pid = (pid_t)MUST(syscall(SYS_clone3, &args, sizeof args));
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  live(i);
}
static bool tell(int i, char order) {
  char answer = 0;
  return write(ORDER(i) + 1, &order, 1) == 1 && read(ANSWER(i), &answer, 1) == 1 && answer == 'y';
}

static void set_counter(unsigned state) {
  uint64_t value = 0;
  (void)!read(COUNTER, &value, sizeof value);
  value = 5 + state;
  (void)!write(COUNTER, &value, sizeof value);
}
static void make(void) {
  put(MUST(open("shared", O_RDWR | O_CREAT | O_CLOEXEC, 0600)), FILE_FD);
  MUST(write(FILE_FD, "hello there", 11));
  put(MUST(eventfd(5, EFD_NONBLOCK)), COUNTER);
  put(MUST(memfd_create("shared", 0)), MEMORY);
  for (int i = 0; i < CHILDREN; ++i) {
    make_pipe(ORDER(i));
    make_pipe(ANSWER(i));
  }
  for (int i = 0; i < CHILDREN; ++i) children[i] = give_birth(i);
}
static void verify(void) {
  check_descriptors(open_ones, OPEN_ONES);
  CHECK_EQUAL("position in the file", lseek(FILE_FD, 0, SEEK_CUR), 11);
  uint64_t value = 0;
  CHECK(read(COUNTER, &value, sizeof value) == sizeof value, "the counter cannot be read: %s", strerror(errno));
  CHECK_EQUAL("counter", value, 5 + victim_state);
  (void)!write(COUNTER, &value, sizeof value);
  for (int i = 0; i < CHILDREN; ++i) {
    CHECK(kill(children[i], 0) == 0, "child %d is gone", i);
    CHECK_EQUAL("kcmp of the tables", syscall(SYS_kcmp, getpid(), children[i], 2 /* KCMP_FILES */, 0, 0), 0);
    CHECK(tell(i, '?'), "child %d sees another table", i);
  }
  CHECK(waitpid(-1, NULL, WNOHANG) == 0, "a child has ended");
}
static void wreck(unsigned round) {
  lseek(FILE_FD, (off_t)round, SEEK_SET);
  CHECK(tell(0, 'o'), "child 0 opens nothing");
  switch (round % 6) {
    case 1:  // everything is to be opened anew, in a table of three tasks
      CHECK(tell(1, 'c'), "child 1 closes nothing");
      break;
    case 2:  // one task is to be made again
      kill(children[0], SIGKILL);
      waitpid(children[0], NULL, 0);
      break;
    case 3:  // both, and all else as well; another task has the table meanwhile
      for (int i = 0; i < CHILDREN; ++i) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
      }
      close(FILE_FD);
      close(COUNTER);
      close(ORDER(0));
      close(ANSWER(1));
      children[0] = give_birth(1);
      break;
    case 4:  // one that nobody waits for
      kill(children[1], SIGKILL);
      siginfo_t info;
      waitid(P_PID, (id_t)children[1], &info, WEXITED | WNOWAIT);
      close(MEMORY);
      break;
    case 5:
      give_birth(0);
      give_birth(1);
      for (int fd = 40; fd < 60; ++fd) dup2(COUNTER, fd);
      break;
    default:
      break;
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set_counter});
}
