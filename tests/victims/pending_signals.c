// Signals that are pending because they are blocked: for the task and for single threads, with their values and order.
#include "victim.h"

#define FIRST 40  // real-time signals 40..47 and SIGUSR1, all blocked in every thread
static struct worker worker;

struct queued {
  int number;
  int value;
};
static const struct queued for_task[2][6] = {{{40, 11}, {40, 12}, {40, 13}, {41, 5}, {42, -7}, {42, 3}},
                                             {{40, 99}, {43, 1}, {43, 2}, {43, 3}, {40, 98}, {41, 4}}};
static const struct queued for_main[2][3] = {{{44, 1}, {44, 2}, {45, 8}}, {{45, 80}, {45, 81}, {44, 82}}};
static const struct queued for_worker[2][3] = {{{46, 21}, {46, 22}, {47, 28}}, {{47, 30}, {46, 31}, {47, 32}}};

static sigset_t one(int number) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, number);
  return set;
}
static void queue(pid_t tid, int number, int value) {
  siginfo_t info = {.si_signo = number, .si_code = SI_QUEUE};
  info.si_pid = getpid();
  info.si_uid = getuid();
  info.si_value.sival_int = value;
  const long result = tid == 0 ? syscall(SYS_rt_sigqueueinfo, getpid(), number, &info)
                               : syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, number, &info);
  CHECK(result == 0, "queueing signal %d: %s", number, strerror(errno));
}
// Takes the calling thread's signals of one number, compares them with those of that number in `wanted`, and queues
// again what it found.
static void look_at(int number, pid_t tid, const struct queued* wanted, int count) {
  const sigset_t set = one(number);
  const struct timespec none = {0};
  siginfo_t found[64];
  int n = 0;
  while (n < 64 && sigtimedwait(&set, &found[n], &none) == number) ++n;
  int at = 0;
  for (int i = 0; i < count; ++i) {
    if (wanted[i].number != number) continue;
    if (at < n) {
      CHECK(found[at].si_value.sival_int == wanted[i].value, "signal %d, place %d: value %d, want %d", number, at,
            found[at].si_value.sival_int, wanted[i].value);
      CHECK(found[at].si_code == SI_QUEUE, "signal %d, place %d: code %d", number, at, found[at].si_code);
      CHECK(found[at].si_pid == getpid(), "signal %d, place %d: sender %d", number, at, found[at].si_pid);
    }
    ++at;
  }
  CHECK(n == at, "signal %d is pending %d times, want %d", number, n, at);
  for (int i = 0; i < n; ++i) queue(tid, number, found[i].si_value.sival_int);
}
static void take_all(int number) {
  const sigset_t set = one(number);
  while (sigtimedwait(&set, NULL, &(struct timespec){0}) > 0) {
  }
}
static void block(void) {
  sigset_t set;
  sigemptyset(&set);
  for (int i = FIRST; i < FIRST + 8; ++i) sigaddset(&set, i);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
}
static void queue_all(unsigned state) {
  for (int i = 0; i < 6; ++i) queue(0, for_task[state % 2][i].number, for_task[state % 2][i].value);
  for (int i = 0; i < 3; ++i) queue(my_tid(), for_main[state % 2][i].number, for_main[state % 2][i].value);
  for (int i = 0; i < 3; ++i) queue(worker.tid, for_worker[state % 2][i].number, for_worker[state % 2][i].value);
  kill(getpid(), SIGUSR1);
}
static void forget_worker(struct worker* w, void* argument) {
  (void)w, (void)argument;
  for (int i = FIRST + 6; i < FIRST + 8; ++i) take_all(i);
}
static void forget(void) {
  for (int i = FIRST; i < FIRST + 8; ++i) take_all(i);
  take_all(SIGUSR1);
  take_all(SIGUSR2);
  worker_call(&worker, forget_worker, NULL);
}
static void make(void) {
  block();
  worker_start(&worker, 90);
  queue_all(0);
}
static void become(unsigned state) {
  forget();
  queue_all(state);
}
static uint64_t mask_of(const struct queued* q, int count) {
  uint64_t mask = 0;
  for (int i = 0; i < count; ++i) mask |= 1ull << (q[i].number - 1);
  return mask;
}
static void look_worker(struct worker* w, void* argument) {
  (void)argument;
  for (int i = FIRST + 6; i < FIRST + 8; ++i) look_at(i, w->tid, for_worker[victim_state % 2], 3);
}
static void verify(void) {
  const unsigned s = victim_state % 2;
  CHECK(status_hex(my_tid(), "ShdPnd") == (mask_of(for_task[s], 6) | 1ull << (SIGUSR1 - 1)),
        "pending for the task: %llx", (unsigned long long)status_hex(my_tid(), "ShdPnd"));
  CHECK(status_hex(my_tid(), "SigPnd") == mask_of(for_main[s], 3), "pending for main: %llx",
        (unsigned long long)status_hex(my_tid(), "SigPnd"));
  CHECK(status_hex(worker.tid, "SigPnd") == mask_of(for_worker[s], 3), "pending for the worker: %llx",
        (unsigned long long)status_hex(worker.tid, "SigPnd"));
  for (int i = FIRST; i < FIRST + 4; ++i) look_at(i, 0, for_task[s], 6);
  for (int i = FIRST + 4; i < FIRST + 6; ++i) look_at(i, my_tid(), for_main[s], 3);
  worker_call(&worker, look_worker, NULL);
}
static void wreck(unsigned round) {
  if (round % 2 == 0) forget();
  for (int i = 0; i < 3; ++i) queue(0, 41, 1000 + i);
  kill(getpid(), SIGUSR2);
  queue(worker.tid, 46, 5000);
  queue(my_tid(), 44, 5001);
  if (round % 3 == 2) worker_end(&worker);
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
