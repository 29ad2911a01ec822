// Threads born after the snapshot go: blocked ones, spinning ones, and ones that go on giving birth.
#include "victim.h"

static struct worker old[2];
static struct worker born[12];
static volatile unsigned char scribbled[PAGE];

static void* spin(void* argument) {
  for (unsigned i = 0;; ++i) scribbled[i % PAGE] = (unsigned char)((uintptr_t)argument + i);
  return NULL;
}
static void* die(void* argument) { return argument; }
static void* give_birth(void* argument) {
  for (;;) {
    pthread_t child;
    if (pthread_create(&child, NULL, die, NULL) == 0) pthread_join(child, NULL);
  }
  return argument;
}
static void make(void) {
  for (int i = 0; i < 2; ++i) worker_start(&old[i], 70 + (unsigned)i);
  fill((void*)scribbled, PAGE, 71);
}
static void verify(void) {
  CHECK_EQUAL("number of threads", count_threads(), 3);
  for (int i = 0; i < 2; ++i) worker_check(&old[i], "old");
  CHECK(filled((void*)scribbled, PAGE, 71), "somebody still scribbles");
  for (int i = 0; i < 1000; ++i) sched_yield();
  CHECK(filled((void*)scribbled, PAGE, 71), "somebody scribbles again");
}
static void wreck(unsigned round) {
  for (int i = 0; i < 12; ++i) worker_start(&born[i], 80 + (unsigned)i);
  pthread_t thread;
  pthread_create(&thread, NULL, spin, (void*)(uintptr_t)round);
  if (round % 2 == 1) pthread_create(&thread, NULL, give_birth, NULL);
  while (scribbled[100] == 0 && scribbled[101] == 0) sched_yield();
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck}); }
