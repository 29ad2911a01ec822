// Policy, nice value, CPU affinity, I/O priority and timer slack of each thread. Raising a nice value again takes a
// privilege: without it, only what an ordinary user can undo is wrecked.
#include "victim.h"

#include <sys/prctl.h>
#include <sys/resource.h>

static struct worker worker;
static int cpus[2];  // two that this task may use; the same one twice on a machine with one

struct wish {
  int policy, nice, cpu, io, slack;
};
static const struct wish for_main[2] = {{SCHED_OTHER, 5, 0, 2 << 13 | 3, 60000},
                                        {SCHED_BATCH, 6, 1, 2 << 13 | 6, 70000}};
static const struct wish for_worker[2] = {{SCHED_BATCH, 7, 1, 3 << 13, 80000}, {SCHED_OTHER, 8, 0, 2 << 13 | 1, 90000}};

static void set(struct worker* w, void* argument) {
  (void)w;
  const struct wish* wish = argument;
  const struct sched_param none = {0};
  MUST(sched_setscheduler(0, wish->policy, &none));
  MUST(setpriority(PRIO_PROCESS, (id_t)my_tid(), wish->nice));
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpus[wish->cpu], &set);
  MUST(sched_setaffinity(0, sizeof set, &set));
  MUST(syscall(SYS_ioprio_set, 1, 0, wish->io));
  MUST(prctl(PR_SET_TIMERSLACK, wish->slack));
}
static void look(struct worker* w, void* argument) {
  const char* who = w == NULL ? "main" : "worker";
  const struct wish* wish = argument;
  CHECK(sched_getscheduler(0) == wish->policy, "policy of %s is %d", who, sched_getscheduler(0));
  errno = 0;
  CHECK(getpriority(PRIO_PROCESS, (id_t)my_tid()) == wish->nice, "nice value of %s is %d", who,
        getpriority(PRIO_PROCESS, (id_t)my_tid()));
  cpu_set_t set;
  sched_getaffinity(0, sizeof set, &set);
  CHECK(CPU_COUNT(&set) == 1 && CPU_ISSET(cpus[wish->cpu], &set), "affinity of %s differs", who);
  CHECK(syscall(SYS_ioprio_get, 1, 0) == wish->io, "I/O priority of %s is %lx", who, syscall(SYS_ioprio_get, 1, 0));
  CHECK(prctl(PR_GET_TIMERSLACK) == wish->slack, "timer slack of %s is %d", who, prctl(PR_GET_TIMERSLACK));
}
static void set_all(unsigned state) {
  set(NULL, (void*)&for_main[state % 2]);
  worker_call(&worker, set, (void*)&for_worker[state % 2]);
}
static void make(void) {
  cpu_set_t set;
  MUST(sched_getaffinity(0, sizeof set, &set));
  int found = 0;
  for (int i = 0; i < CPU_SETSIZE && found < 2; ++i)
    if (CPU_ISSET(i, &set)) cpus[found++] = i;
  if (found < 2) cpus[1] = cpus[0];
  worker_start(&worker, 96);
  set_all(0);
}
// An ordinary user's nice values only rise.
static void become(unsigned state) {
  if (geteuid() != 0 && state == 0) return;
  set_all(state);
}
static void verify(void) {
  look(NULL, (void*)&for_main[victim_state % 2]);
  worker_call(&worker, look, (void*)&for_worker[victim_state % 2]);
}
static void wreck(unsigned round) {
  const bool root = geteuid() == 0;
  const unsigned s = victim_state % 2;
  struct wish main_wish = {SCHED_IDLE, root ? 15 : for_main[s].nice, 1 - for_main[s].cpu, 2 << 13 | 7, 123456};
  struct wish worker_wish = {round % 2 == 0 && root ? SCHED_IDLE : SCHED_OTHER, root ? 0 : for_worker[s].nice,
                             1 - for_worker[s].cpu, 2 << 13, 1};
  if (!root) main_wish.policy = SCHED_BATCH;
  set(NULL, &main_wish);
  worker_call(&worker, set, &worker_wish);
  if (round % 3 == 2) worker_end(&worker);
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
