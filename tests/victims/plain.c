// The least: static data, a heap block and a counter. For what is counted and not judged (steady state, stopped tasks).
#include "victim.h"

static unsigned char data[64 * PAGE];
static unsigned char* heap;
static volatile unsigned counter = 17;

static uint64_t seed(void) { return 100 + victim_state; }
static void refill(unsigned state) {
  (void)state;
  fill(data, sizeof data, seed());
  fill(heap, 64 * PAGE, seed() + 1000);
  counter = 17 + victim_state;
}
static void make(void) {
  heap = malloc(64 * PAGE);
  refill(0);
}
static void verify(void) {
  CHECK(filled(data, sizeof data, seed()), "static data differs");
  CHECK(filled(heap, 64 * PAGE, seed() + 1000), "heap differs");
  CHECK_EQUAL("counter", counter, 17 + victim_state);
}
static void wreck(unsigned round) {
  fill(data, sizeof data, 7 + round);
  fill(heap, 64 * PAGE, 8 + round);
  counter = round;
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = refill});
}
