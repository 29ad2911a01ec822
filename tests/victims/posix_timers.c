// timer_create(2) by its raw system calls: ids (with gaps), what is left, intervals, whom they notify, and one that
// fires.
#include "victim.h"

#include <time.h>

#define WORKERS 1
static struct worker worker;
static int ids[4];  // noted at ready
static volatile sig_atomic_t fired, fired_on;

static void fire(int s, siginfo_t* info, void* u) {
  (void)s, (void)u;
  fired_on = my_tid();
  if (info->si_value.sival_int == 4242) ++fired;
}
static int create(clockid_t clock, int notify, int signal, int value, pid_t target) {
  struct sigevent e = {.sigev_notify = notify, .sigev_signo = signal};
  e.sigev_value.sival_int = value;
  e._sigev_un._tid = target;
  int id = -1;
  if (syscall(SYS_timer_create, clock, &e, &id) != 0) victim_die("timer_create");
  return id;
}
static int set(int id, long seconds, long interval, long interval_ns) {
  const struct itimerspec t = {{interval, interval_ns}, {seconds, seconds == 0 ? interval_ns : 0}};
  return (int)syscall(SYS_timer_settime, id, 0, &t, NULL);
}
static void set_all(unsigned state) {
  set(ids[0], 7000 + 5000 * (long)state, 11, 0);
  set(ids[1], 0, 0, 0);  // stands disarmed
  set(ids[2], 8000 + 5000 * (long)state, 0, 500);
  set(ids[3], 0, 0, 5000000);  // every 5 ms
}
static void make(void) {
  worker_start(&worker, 95);
  sigset_t none;
  sigemptyset(&none);
  sigaction(SIGRTMIN + 3,
            &(struct sigaction){.sa_sigaction = fire, .sa_flags = SA_SIGINFO | SA_RESTART, .sa_mask = none}, NULL);
  const int gap = create(CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0);
  ids[0] = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, 7, 0);
  ids[1] = create(CLOCK_REALTIME, SIGEV_NONE, 0, 8, 0);
  const int gap2 = create(CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0);
  ids[2] = create(CLOCK_BOOTTIME, SIGEV_SIGNAL, SIGRTMIN + 2, 9, 0);
  ids[3] = create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN + 3, 4242, worker.tid);
  syscall(SYS_timer_delete, gap);
  syscall(SYS_timer_delete, gap2);
  set_all(0);
}
static void check_timer(int index, long left, long interval, long interval_ns) {
  struct itimerspec t = {0};
  if (syscall(SYS_timer_gettime, ids[index], &t) != 0) {
    victim_fail("timer %d (id %d): %s", index, ids[index], strerror(errno));
    return;
  }
  CHECK_EQUAL("interval of a timer (s)", t.it_interval.tv_sec, interval);
  CHECK_EQUAL("interval of a timer (ns)", t.it_interval.tv_nsec, interval_ns);
  CHECK(t.it_value.tv_sec <= left && t.it_value.tv_sec >= left - 1000, "timer %d has %ld s left, want about %ld", index,
        (long)t.it_value.tv_sec, left);
}
static void verify(void) {
  check_timer(0, 7000 + 5000 * (long)victim_state, 11, 0);
  check_timer(1, 0, 0, 0);
  check_timer(2, 8000 + 5000 * (long)victim_state, 0, 500);
  check_timer(3, 0, 0, 5000000);
  char text[4096], *rest = NULL;
  read_text("/proc/self/timers", text, sizeof text);
  int count = 0, id = -1;
  for (char* line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
    int number = 0, target = 0;
    if (sscanf(line, "ID: %d", &id) == 1) ++count;
    if (sscanf(line, "signal: %d/", &number) == 1 && id == ids[2])
      CHECK_EQUAL("signal of a timer", number, SIGRTMIN + 2);
    if (sscanf(line, "notify: signal/tid.%d", &target) == 1 && id == ids[3])
      CHECK_EQUAL("thread that a timer notifies", target, worker.tid);
    if (sscanf(line, "ClockID: %d", &number) == 1 && id == ids[2])
      CHECK_EQUAL("clock of a timer", number, CLOCK_BOOTTIME);
  }
  CHECK_EQUAL("number of timers", count, 4);
  const sig_atomic_t before = fired;
  for (const double until = now() + 20; fired == before && now() < until;) sched_yield();
  CHECK(fired != before, "the timer does not fire");
  CHECK_EQUAL("thread the timer fired on", fired_on, worker.tid);
}
static void wreck(unsigned round) {
  if (round % 3 != 0)
    set(ids[0], 70000, 0, 0);
  else
    syscall(SYS_timer_delete, ids[0]);
  set(ids[1], 70001, 3, 0);
  syscall(SYS_timer_delete, ids[2]);
  create(CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0);
  create(CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0);
  syscall(SYS_timer_delete, ids[3]);
  if (round % 3 == 1) worker_end(&worker);
}

int main(void) {
  return victim_main(
      &(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set_all, .interrupted = true});
}
