// rseq(2): every thread's registration (glibc's), a sane cpu_id afterwards, and threads that count per CPU in critical
// sections: a section that went on in its middle after a rollback would lose counts of the other threads.
#include "victim.h"

#include <linux/rseq.h>
#include <sys/rseq.h>

#define WORKERS 2
#define COUNTERS 4
static struct worker workers[WORKERS];
static struct {
  uint64_t count;
  char apart[56];
} per_cpu[1024] __attribute__((aligned(64)));
static pthread_t counters[COUNTERS];
static struct {
  _Atomic uint64_t count;
  char apart[56];
} done[COUNTERS];
static atomic_int pause_all;
static atomic_int paused;

static volatile struct rseq* area(void) { return (struct rseq*)((char*)__builtin_thread_pointer() + __rseq_offset); }

// One increment of per_cpu[cpu].count in a critical section of its own. Returns 1 when it was committed.
static int count_once(volatile struct rseq* r) {
  const uint32_t cpu = r->cpu_id_start;
  int committed = 0;
  __asm__ volatile goto(
      ".pushsection __rseq_cs, \"aw\"\n.balign 32\n9:\n.long 0, 0\n.quad 1f, 2f - 1f, 4f\n.popsection\n"
      "lea 9b(%%rip), %%rax\nmov %%rax, 8(%[rseq])\n"
      "1:\ncmp %[cpu], 4(%[rseq])\njne %l[aborted]\n"
      "mov (%[counter]), %%rax\nmov $200, %%ecx\n5: pause\ndec %%ecx\njnz 5b\nadd $1, %%rax\n"
      "mov %%rax, (%[counter])\n2:\n"
      ".pushsection __rseq_abort, \"ax\"\n.byte 0x0f, 0xb9, 0x3d\n.long 0x53053053\n4:\njmp %l[aborted]\n.popsection\n"
      :
      : [rseq] "r"(r), [cpu] "r"(cpu), [counter] "r"(&per_cpu[cpu].count)
      : "rax", "rcx", "memory", "cc"
      : aborted);
  committed = 1;
aborted:
  return committed;
}

static void* count(void* argument) {
  const int i = (int)(intptr_t)argument;
  volatile struct rseq* r = area();
  for (;;) {
    if (atomic_load(&pause_all) != 0) {
      atomic_fetch_add(&paused, 1);
      futex_wake(&paused);
      while (atomic_load(&pause_all) != 0) futex_wait(&pause_all, 1);
      atomic_fetch_sub(&paused, 1);
    }
    if (count_once(r)) atomic_fetch_add(&done[i].count, 1);
  }
  return NULL;
}

static void make(void) {
  if (__rseq_size == 0) victim_skip("needs rseq: the C library registers it");
  for (int i = 0; i < WORKERS; ++i) worker_start(&workers[i], 40 + (unsigned)i);
  for (int i = 0; i < COUNTERS; ++i) pthread_create(&counters[i], NULL, count, (void*)(intptr_t)i);
  for (int i = 0; i < COUNTERS; ++i)
    while (atomic_load(&done[i].count) == 0) sched_yield();
}

static void look(struct worker* w, void* argument) {
  (void)w, (void)argument;
  volatile struct rseq* r = area();
  // A registered area cannot be registered once more: EBUSY says that it is this one, EINVAL another.
  const long result = syscall(SYS_rseq, r, sizeof(struct rseq), 0, RSEQ_SIG);
  CHECK(result == -1 && errno == EBUSY, "rseq is not registered (%ld, %s)", result, strerror(errno));
  for (int tries = 0; tries < 100000; ++tries) {
    const uint32_t before = r->cpu_id;
    unsigned cpu = 0;
    syscall(SYS_getcpu, &cpu, NULL, NULL);
    if (before == cpu && r->cpu_id == cpu) return;
  }
  victim_fail("cpu_id of rseq never agrees with getcpu");
}

static void verify(void) {
  look(NULL, NULL);
  for (int i = 0; i < WORKERS; ++i) worker_call(&workers[i], look, NULL);
  uint64_t before[COUNTERS];
  for (int i = 0; i < COUNTERS; ++i) {
    before[i] = atomic_load(&done[i].count);
    for (const double until = now() + 20; atomic_load(&done[i].count) == before[i] && now() < until;) sched_yield();
    CHECK(atomic_load(&done[i].count) != before[i], "counting thread %d stands", i);
  }
  atomic_store(&pause_all, 1);
  for (int all; (all = atomic_load(&paused)) != COUNTERS;) futex_wait(&paused, all);
  uint64_t by_cpu = 0, by_thread = 0;
  for (int i = 0; i < 1024; ++i) by_cpu += per_cpu[i].count;
  for (int i = 0; i < COUNTERS; ++i) by_thread += atomic_load(&done[i].count);
  CHECK(by_cpu == by_thread, "counts by CPU (%llu) and by thread (%llu) differ", (unsigned long long)by_cpu,
        (unsigned long long)by_thread);
  atomic_store(&pause_all, 0);
  futex_wake(&pause_all);
  while (atomic_load(&paused) != 0) sched_yield();
}

static void unregister(struct worker* w, void* argument) {
  (void)w, (void)argument;
  CHECK_EQUAL("rseq unregistration", syscall(SYS_rseq, area(), sizeof(struct rseq), RSEQ_FLAG_UNREGISTER, RSEQ_SIG), 0);
}
static void wreck(unsigned round) {
  (void)round;
  unregister(NULL, NULL);
  for (int i = 0; i < WORKERS; ++i) worker_call(&workers[i], unregister, NULL);
  for (int i = 0; i < 1024; ++i) per_cpu[i].count += 1000;
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck}); }
