// setitimer(2), all three; and a timer that fires all the while. What is left is judged with a wide tolerance: time
// goes on.
#include "victim.h"

#include <sys/time.h>

static const struct {
  long left, interval;
} wanted[2][3] = {{{0, 10000}, {5000, 7}, {9000, 0}}, {{0, 20000}, {0, 0}, {5000, 70}}};
static volatile sig_atomic_t ticks;

static void tick(int s) {
  (void)s;
  ++ticks;
}
static void set(int which, long left, long interval) {
  // The real timer ticks every so many microseconds; the two others never get to their end.
  struct itimerval t = {{interval, 0}, {left, 0}};
  if (which == ITIMER_REAL) t = (struct itimerval){{0, interval}, {0, interval}};
  MUST(setitimer(which, &t, NULL));
}
static void set_all(unsigned state) {
  for (int i = 0; i < 3; ++i) set(i, wanted[state % 2][i].left, wanted[state % 2][i].interval);
}
static void make(void) {
  sigaction(SIGALRM, &(struct sigaction){.sa_handler = tick, .sa_flags = SA_RESTART}, NULL);
  set_all(0);
}
static void become(unsigned state) { set_all(state); }
static void verify(void) {
  const unsigned s = victim_state % 2;
  for (int i = 0; i < 3; ++i) {
    struct itimerval t;
    getitimer(i, &t);
    if (i == ITIMER_REAL) {
      CHECK_EQUAL("interval of the real timer (us)", t.it_interval.tv_usec, wanted[s][i].interval);
      continue;
    }
    CHECK_EQUAL("interval of a timer", t.it_interval.tv_sec, wanted[s][i].interval);
    const long left = wanted[s][i].left;
    CHECK(t.it_value.tv_sec <= left && t.it_value.tv_sec >= left - 1000, "timer %d has %ld s left, want about %ld", i,
          (long)t.it_value.tv_sec, left);
  }
  const sig_atomic_t before = ticks;
  for (const double until = now() + 20; ticks == before && now() < until;) sched_yield();
  CHECK(ticks != before, "the real timer does not tick");
}
static void wreck(unsigned round) {
  for (int i = 0; i < 3; ++i) MUST(setitimer(i, &(struct itimerval){{0, 0}, {round % 2 == 0 ? 0 : 70000, 0}}, NULL));
}

int main(void) {
  return victim_main(
      &(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become, .interrupted = true});
}
