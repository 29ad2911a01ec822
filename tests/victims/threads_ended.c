// Threads that end after the snapshot come back: the same tids, stacks and states, each blocked where it was.
#include "victim.h"

#include <poll.h>
#include <semaphore.h>
#include <time.h>

enum { kFutex, kPipe, kCondition, kSleep, kPoll, kSemaphore, kSpin, KINDS };
static const char* const names[] = {"futex", "pipe", "condition", "sleep", "poll", "semaphore", "spin"};
static const long calls[] = {SYS_futex, SYS_read, SYS_futex, SYS_clock_nanosleep, SYS_poll, SYS_futex, -1};

static struct blocked {
  pthread_t thread;
  pid_t tid;
  atomic_int kind;
  atomic_int word;
  int pipe[2];
  pthread_mutex_t mutex;
  pthread_cond_t condition;
  int rung;
  sem_t semaphore;
  atomic_int woken;
  atomic_int bad;
  atomic_int leave;
} all[KINDS];

static __thread unsigned char local[2000];

// 0 once woken; an error number is what a program could not have seen.
static int block(struct blocked* b) {
  char byte;
  switch (b->kind) {
    case kFutex:
      while (atomic_load(&b->word) == 0) futex_wait(&b->word, 0);
      atomic_store(&b->word, 0);
      return 0;
    case kPipe:
      return read(b->pipe[0], &byte, 1) == 1 ? 0 : errno;
    case kCondition: {
      pthread_mutex_lock(&b->mutex);
      while (b->rung == 0) pthread_cond_wait(&b->condition, &b->mutex);
      b->rung = 0;
      pthread_mutex_unlock(&b->mutex);
      return 0;
    }
    case kSleep:
      return clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_sec = 36000}, NULL) == 0 ? 99 : 98;
    case kPoll: {
      struct pollfd p = {.fd = b->pipe[0], .events = POLLIN};
      if (poll(&p, 1, -1) != 1) return errno;
      return read(b->pipe[0], &byte, 1) == 1 ? 0 : errno;
    }
    case kSemaphore:
      return sem_wait(&b->semaphore) == 0 ? 0 : errno;
    default:
      while (atomic_load(&b->word) == 0) sched_yield();
      atomic_store(&b->word, 0);
      return 0;
  }
}
static void wake(struct blocked* b) {
  switch (b->kind) {
    case kFutex:
      atomic_store(&b->word, 1);
      futex_wake(&b->word);
      break;
    case kPipe:
    case kPoll:
      MUST(write(b->pipe[1], "x", 1));
      break;
    case kCondition:
      pthread_mutex_lock(&b->mutex);
      b->rung = 1;
      pthread_cond_signal(&b->condition);
      pthread_mutex_unlock(&b->mutex);
      break;
    case kSleep:
      pthread_cancel(b->thread);
      break;
    case kSemaphore:
      sem_post(&b->semaphore);
      break;
    default:
      atomic_store(&b->word, 1);
  }
}
static void* run(void* argument) {
  struct blocked* b = argument;
  unsigned char on_stack[5000];
  const uint64_t seed = 600 + (uint64_t)b->kind;
  fill(on_stack, sizeof on_stack, seed);
  fill(local, sizeof local, seed + 100);
  b->tid = my_tid();
  atomic_store(&b->woken, 1);
  for (;;) {
    const int error = block(b);
    if (error != 0) atomic_store(&b->bad, error);
    if (!filled(on_stack, sizeof on_stack, seed)) atomic_store(&b->bad, 1001);
    if (!filled(local, sizeof local, seed + 100)) atomic_store(&b->bad, 1002);
    if (my_tid() != b->tid || !pthread_equal(pthread_self(), b->thread)) atomic_store(&b->bad, 1003);
    if (atomic_load(&b->leave) != 0) return (void*)(uintptr_t)seed;
    atomic_fetch_add(&b->woken, 1);
  }
}
static void make(void) {
  for (int i = 0; i < KINDS; ++i) {
    struct blocked* b = &all[i];
    b->kind = i;
    MUST(pipe2(b->pipe, O_CLOEXEC));
    pthread_mutex_init(&b->mutex, NULL);
    pthread_cond_init(&b->condition, NULL);
    sem_init(&b->semaphore, 0, 0);
    pthread_create(&b->thread, NULL, run, b);
    while (atomic_load(&b->woken) == 0) sched_yield();
    if (i != kSpin) blocked_in(b->tid);
  }
}
static void verify(void) {
  CHECK_EQUAL("number of threads", count_threads(), KINDS + 1);
  for (int i = 0; i < KINDS; ++i) {
    struct blocked* b = &all[i];
    CHECK(thread_exists(b->tid), "thread %s (%d) is gone", names[i], b->tid);
    if (!thread_exists(b->tid)) continue;
    const int before = atomic_load(&b->woken);
    if (i != kSleep) {
      wake(b);
      for (const double until = now() + 20; atomic_load(&b->woken) == before && now() < until;) sched_yield();
      CHECK(atomic_load(&b->woken) == before + 1, "thread %s does not wake", names[i]);
    }
    if (calls[i] >= 0) {
      const long in = blocked_in(b->tid);
      CHECK(in == calls[i] || in == SYS_restart_syscall, "thread %s stands in system call %ld", names[i], in);
    }
    CHECK_EQUAL(names[i], atomic_load(&b->bad), 0);
  }
}
static void end(struct blocked* b) {
  atomic_store(&b->leave, 1);
  wake(b);
  void* result = NULL;
  const int error = pthread_join(b->thread, &result);
  CHECK(error == 0, "pthread_join: %s", strerror(error));
  void* const wanted = b->kind == kSleep ? PTHREAD_CANCELED : (void*)(600 + (uintptr_t)b->kind);
  CHECK(result == wanted, "pthread_join of %s gave another result", names[b->kind]);
  close(b->pipe[0]);
  close(b->pipe[1]);
}
// All end; every second one ends; all end and others are born on their stacks, with tids of their own.
static void wreck(unsigned round) {
  for (int i = 0; i < KINDS; ++i)
    if (round % 3 != 1 || i % 2 == 0) end(&all[i]);
  if (round % 3 == 2) {
    static struct worker others[KINDS];
    for (int i = 0; i < KINDS; ++i) worker_start(&others[i], 6000 + (unsigned)i);
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck}); }
