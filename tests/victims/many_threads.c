// A hundred threads, blocked; some or all of them end, others are born.
#include "victim.h"

#define COUNT 100
static struct worker all[COUNT];
static struct worker born[10];

static void make(void) {
  for (int i = 0; i < COUNT; ++i) worker_start(&all[i], 900 + (unsigned)i);
}
static void verify(void) {
  CHECK_EQUAL("number of threads", count_threads(), COUNT + 1);
  for (int i = 0; i < COUNT; ++i) worker_check(&all[i], "worker");
}
static void wreck(unsigned round) {
  for (int i = 0; i < COUNT; ++i)
    if (round % 4 == 0 || i % (int)(round % 4 + 1) == 0) worker_end(&all[i]);
  for (int i = 0; i < 10; ++i) worker_start(&born[i], 8000 + (unsigned)i);
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck}); }
