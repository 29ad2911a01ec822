// The robust list each thread has registered, and a robust mutex that a thread holds.
#include "victim.h"

#include <linux/futex.h>

#define WORKERS 3
static struct worker workers[WORKERS];
static struct robust_list_head other_heads[WORKERS + 1];
static struct robust_list_head* heads[WORKERS + 1];
static pthread_mutex_t mutex;

static struct robust_list_head* head_of(pid_t tid, size_t* length) {
  struct robust_list_head* head = NULL;
  if (syscall(SYS_get_robust_list, tid, &head, length) != 0) victim_fail("get_robust_list: %s", strerror(errno));
  return head;
}
static void take(struct worker* w, void* argument) {
  (void)w, (void)argument;
  CHECK_EQUAL("pthread_mutex_lock", pthread_mutex_lock(&mutex), 0);
}
static void release(struct worker* w, void* argument) {
  (void)w, (void)argument;
  CHECK_EQUAL("pthread_mutex_unlock", pthread_mutex_unlock(&mutex), 0);
}
static void make(void) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&mutex, &attributes);
  size_t length = 0;
  heads[0] = head_of(0, &length);
  for (int i = 0; i < WORKERS; ++i) {
    worker_start(&workers[i], 30 + (unsigned)i);
    heads[i + 1] = head_of(workers[i].tid, &length);
  }
  worker_call(&workers[0], take, NULL);
}
static void verify(void) {
  for (int i = 0; i <= WORKERS; ++i) {
    size_t length = 0;
    const struct robust_list_head* head = head_of(i == 0 ? 0 : workers[i - 1].tid, &length);
    CHECK(head == heads[i], "robust list of thread %d is elsewhere", i);
    CHECK_EQUAL("length of a robust list head", length, 24);
  }
  for (int i = 0; i < WORKERS; ++i) worker_check(&workers[i], "worker");
  CHECK_EQUAL("trylock of the held mutex", pthread_mutex_trylock(&mutex), EBUSY);
  CHECK(heads[1]->list.next != &heads[1]->list, "the robust list of the holder is empty");
}
static void set_head(struct worker* w, void* argument) {
  (void)w;
  syscall(SYS_set_robust_list, argument, 24);
}
// Every second time the holder dies instead: the mutex goes to the next with EOWNERDEAD.
static void wreck(unsigned round) {
  if (round % 2 == 1) {
    worker_end(&workers[0]);
    CHECK_EQUAL("lock after the owner's death", pthread_mutex_lock(&mutex), EOWNERDEAD);
    pthread_mutex_consistent(&mutex);
    pthread_mutex_unlock(&mutex);
    return;
  }
  worker_call(&workers[0], release, NULL);
  for (int i = 0; i <= WORKERS; ++i) {
    other_heads[i].list.next = &other_heads[i].list;
    if (i == 0)
      syscall(SYS_set_robust_list, &other_heads[0], 24);
    else
      worker_call(&workers[i - 1], set_head, &other_heads[i]);
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck}); }
