// The main thread has ended; the task lives on in another thread, which reads the lines.
#include "victim.h"

static unsigned char data[16 * PAGE];
static struct worker worker;
static pid_t reader;

static void make(void) {
  fill(data, sizeof data, 1700);
  worker_start(&worker, 98);
}
static void verify(void) {
  CHECK(filled(data, sizeof data, 1700 + victim_state), "data differ");
  CHECK_EQUAL("tid of the reader", my_tid(), reader);
  worker_check(&worker, "worker");
  char state[64] = "";
  status_field(getpid(), "State", state, sizeof state);
  CHECK(state[0] == 'Z', "the leader's state is %s", state);
}
static void wreck(unsigned round) {
  fill(data, sizeof data, round);
  worker_end(&worker);
}
static void become(unsigned state) { fill(data, sizeof data, 1700 + state); }
static void* run(void* argument) {
  reader = my_tid();
  char state[64] = "";
  while (status_field(getpid(), "State", state, sizeof state) && state[0] != 'Z') sched_yield();
  _exit(victim_main(argument));
}
int main(void) {
  static struct victim v = {.make = make, .verify = verify, .wreck = wreck, .become = become};
  pthread_t thread;
  pthread_create(&thread, NULL, run, &v);
  pthread_exit(NULL);
}
