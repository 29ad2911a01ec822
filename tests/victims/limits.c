// The soft limits of every resource. (A hard limit that was lowered can only be raised again with a privilege.)
#include "victim.h"

#include <sys/resource.h>

static const int which[] = {RLIMIT_CORE,       RLIMIT_NOFILE,   RLIMIT_FSIZE, RLIMIT_MEMLOCK,
                            RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE, RLIMIT_CPU,   RLIMIT_DATA,
                            RLIMIT_RSS,        RLIMIT_STACK,    RLIMIT_LOCKS};
#define COUNT (sizeof which / sizeof which[0])
static rlim_t hard[COUNT];
static const rlim_t usual[COUNT] = {1 << 20, 900,       1ul << 40, 6ul << 20, 5000,   400000,
                                    1 << 20, 1ul << 40, 1ul << 41, 6ul << 20, 1 << 20};

static rlim_t soft(size_t i, unsigned divisor) {
  const rlim_t want = usual[i] / divisor + i;
  return want < hard[i] ? want : hard[i];
}
static void set(unsigned divisor) {
  for (size_t i = 0; i < COUNT; ++i) MUST(setrlimit(which[i], &(struct rlimit){soft(i, divisor), hard[i]}));
}
static void become(unsigned state) { set(state + 1); }
static void make(void) {
  for (size_t i = 0; i < COUNT; ++i) {
    struct rlimit r;
    getrlimit(which[i], &r);
    hard[i] = r.rlim_max;
  }
  set(1);
}
static void verify(void) {
  for (size_t i = 0; i < COUNT; ++i) {
    struct rlimit r;
    getrlimit(which[i], &r);
    CHECK(r.rlim_cur == soft(i, victim_state + 1), "soft limit %d is %llu, want %llu", which[i],
          (unsigned long long)r.rlim_cur, (unsigned long long)soft(i, victim_state + 1));
    CHECK(r.rlim_max == hard[i], "hard limit %d differs", which[i]);
  }
}
static void wreck(unsigned round) { set(3 + round % 3); }

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
