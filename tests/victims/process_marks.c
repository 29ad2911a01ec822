// Names and marks: comm of each thread, personality, dumpable, the OOM adjustment, the parent-death signal, subreaper.
#include "victim.h"

#include <sys/personality.h>
#include <sys/prctl.h>

static struct worker worker;

static void name(struct worker* w, void* argument) {
  (void)w;
  MUST(prctl(PR_SET_NAME, argument));
}
static void adjust(int value) {
  char text[16];
  const int length = snprintf(text, sizeof text, "%d", value);
  const int fd = MUST(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (write(fd, text, (size_t)length) != length) victim_fail("oom_score_adj: %s", strerror(errno));
  close(fd);
}
static const char* const main_names[2] = {"main one", "main two"};
static const char* const worker_names[2] = {"worker (one)", "worker\ttwo"};
static void set(unsigned state) {
  name(NULL, (void*)main_names[state % 2]);
  worker_call(&worker, name, (void*)worker_names[state % 2]);
  MUST(personality(state % 2 == 0 ? ADDR_NO_RANDOMIZE : ADDR_NO_RANDOMIZE | UNAME26));
  MUST(prctl(PR_SET_PDEATHSIG, state % 2 == 0 ? SIGUSR2 : SIGUSR1));
  MUST(prctl(PR_SET_CHILD_SUBREAPER, state % 2 == 0));
  adjust(100 + (int)(state % 2) * 50);
}
static void make(void) {
  worker_start(&worker, 97);
  signal(SIGUSR2, SIG_IGN);
  signal(SIGUSR1, SIG_IGN);
  set(0);
}
static void verify(void) {
  const unsigned s = victim_state % 2;
  char found[64];
  CHECK(prctl(PR_GET_NAME, found) == 0 && strcmp(found, main_names[s]) == 0, "main is named '%s'", found);
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%d/comm", worker.tid);
  read_text(path, found, sizeof found);
  found[strcspn(found, "\n")] = 0;
  CHECK(strcmp(found, worker_names[s]) == 0, "the worker is named '%s'", found);
  CHECK_EQUAL("personality", personality(0xffffffff), s == 0 ? ADDR_NO_RANDOMIZE : ADDR_NO_RANDOMIZE | UNAME26);
  CHECK_EQUAL("dumpable", prctl(PR_GET_DUMPABLE), 1);
  int value = 0;
  prctl(PR_GET_PDEATHSIG, &value);
  CHECK_EQUAL("parent-death signal", value, s == 0 ? SIGUSR2 : SIGUSR1);
  prctl(PR_GET_CHILD_SUBREAPER, &value);
  CHECK_EQUAL("subreaper", value, s == 0);
  read_text("/proc/self/oom_score_adj", found, sizeof found);
  CHECK_EQUAL("oom_score_adj", atoi(found), 100 + (int)s * 50);
}
static void wreck(unsigned round) {
  name(NULL, "wrecked");
  worker_call(&worker, name, "wrecked too");
  MUST(personality(0));
  MUST(prctl(PR_SET_PDEATHSIG, round % 2 == 0 ? 0 : SIGCONT));
  MUST(prctl(PR_SET_CHILD_SUBREAPER, victim_state % 2));
  adjust(300);
  if (geteuid() == 0) MUST(prctl(PR_SET_DUMPABLE, 0));  // an ordinary user could not look at it any more
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set}); }
