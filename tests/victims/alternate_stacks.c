// sigaltstack(2) of each thread, and a handler that runs on it.
#include "victim.h"

#define WORKERS 2
#define SIZE (16 * PAGE)
static struct worker workers[WORKERS];
static unsigned char stacks[WORKERS + 1][SIZE] __attribute__((aligned(4096)));
static unsigned char other[SIZE] __attribute__((aligned(4096)));
static volatile uintptr_t handled_at;

static void handle(int signal) {
  (void)signal;
  char here;
  handled_at = (uintptr_t)&here;
}
static void set(struct worker* w, void* argument) {
  (void)w;
  const stack_t s = {.ss_sp = argument, .ss_size = SIZE};
  MUST(sigaltstack(&s, NULL));
}
static void look(struct worker* w, void* argument) {
  (void)w;
  stack_t s;
  sigaltstack(NULL, &s);
  CHECK(s.ss_sp == argument, "alternate stack is elsewhere");
  CHECK_EQUAL("size of the alternate stack", s.ss_size, SIZE);
  CHECK_EQUAL("flags of the alternate stack", s.ss_flags, 0);
  handled_at = 0;
  pthread_kill(pthread_self(), SIGUSR1);
  char* at = (char*)handled_at;
  CHECK(at >= (char*)argument && at < (char*)argument + SIZE, "the handler ran elsewhere");
}
static void make(void) {
  sigaction(SIGUSR1, &(struct sigaction){.sa_handler = handle, .sa_flags = SA_ONSTACK}, NULL);
  set(NULL, stacks[WORKERS]);
  for (int i = 0; i < WORKERS; ++i) {
    worker_start(&workers[i], 50 + (unsigned)i);
    worker_call(&workers[i], set, stacks[i]);
  }
}
static void verify(void) {
  look(NULL, stacks[WORKERS]);
  for (int i = 0; i < WORKERS; ++i) worker_call(&workers[i], look, stacks[i]);
}
static void disable(struct worker* w, void* argument) {
  (void)w, (void)argument;
  MUST(sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL));
}
static void wreck(unsigned round) {
  disable(NULL, NULL);
  if (round % 2 == 0)
    worker_call(&workers[0], disable, NULL);
  else
    worker_end(&workers[0]);
  worker_call(&workers[1], set, other);
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .interrupted = true});
}
