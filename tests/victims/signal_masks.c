// The signal mask of every thread, as the kernel tells it.
#include "victim.h"

#define WORKERS 3
static struct worker workers[WORKERS];
static const uint64_t masks[2][WORKERS + 1] = {
    {1ull << (SIGUSR1 - 1) | 1ull << 36 | 1ull << 63, 0, 1ull << (SIGHUP - 1) | 1ull << (SIGTERM - 1),
     0xfffffffe00000a00ull},
    {1ull << (SIGUSR2 - 1), 1ull << (SIGALRM - 1), 0, 1ull << 40},
};

static void set_mask(uint64_t mask) { syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8); }
static void set_worker_mask(struct worker* w, void* argument) {
  (void)w;
  set_mask(*(uint64_t*)argument);
}
static void set(const uint64_t* m) {
  set_mask(m[0]);
  for (int i = 0; i < WORKERS; ++i) {
    uint64_t mask = m[i + 1];
    worker_call(&workers[i], set_worker_mask, &mask);
  }
}
static void make(void) {
  for (int i = 0; i < WORKERS; ++i) worker_start(&workers[i], 10 + (unsigned)i);
  set(masks[0]);
}
static void become(unsigned state) { set(masks[state % 2]); }
static void verify(void) {
  const uint64_t* m = masks[victim_state % 2];
  CHECK(status_hex(my_tid(), "SigBlk") == m[0], "main's mask is %llx",
        (unsigned long long)status_hex(my_tid(), "SigBlk"));
  for (int i = 0; i < WORKERS; ++i) {
    worker_check(&workers[i], "worker");
    const uint64_t found = status_hex(workers[i].tid, "SigBlk");
    CHECK(found == m[i + 1], "mask of worker %d is %llx", i, (unsigned long long)found);
  }
}
static void wreck(unsigned round) {
  const uint64_t other[WORKERS + 1] = {1ull << (round % 30 + 32), 1ull << 50, 1ull << 51, 0};
  set(other);
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
