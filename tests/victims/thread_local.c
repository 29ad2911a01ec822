// Thread-local storage, and the two segment bases that lead to it.
#include "victim.h"

#include <asm/prctl.h>

#define WORKERS 4
static __thread unsigned char local[8192];
static __thread unsigned local_number = 4711;
static struct worker workers[WORKERS];
static uint64_t fs_bases[WORKERS];
static const uint64_t kGsBase = 0x123456789000ull;

static uint64_t base(int code) {
  uint64_t value = 0;
  syscall(SYS_arch_prctl, code, &value);
  return value;
}
static void set(struct worker* w, void* argument) {
  const uint64_t offset = *(uint64_t*)argument;
  fill(local, sizeof local, w->seed + offset);
  local_number = (unsigned)(w->seed + offset);
  syscall(SYS_arch_prctl, ARCH_SET_GS, kGsBase + (w->seed + offset) * PAGE);
}
static void look(struct worker* w, void* argument) {
  const uint64_t offset = victim_state;
  CHECK(filled(local, sizeof local, w->seed + offset), "thread-local array differs");
  CHECK_EQUAL("thread-local number", local_number, w->seed + offset);
  CHECK_EQUAL("FS base", base(ARCH_GET_FS), *(uint64_t*)argument);
  CHECK_EQUAL("GS base", base(ARCH_GET_GS), kGsBase + (w->seed + offset) * PAGE);
}
static void note_base(struct worker* w, void* argument) {
  (void)w;
  *(uint64_t*)argument = base(ARCH_GET_FS);
}
static void set_all(uint64_t offset) {
  struct worker self = {.seed = 99};
  set(&self, &offset);
  for (int i = 0; i < WORKERS; ++i) worker_call(&workers[i], set, &offset);
}
static void make(void) {
  for (int i = 0; i < WORKERS; ++i) {
    worker_start(&workers[i], 20 + (unsigned)i);
    worker_call(&workers[i], note_base, &fs_bases[i]);
  }
  set_all(0);
}
static void become(unsigned state) { set_all(state); }
static void verify(void) {
  struct worker self = {.seed = 99};
  uint64_t own = base(ARCH_GET_FS);
  look(&self, &own);
  for (int i = 0; i < WORKERS; ++i) worker_call(&workers[i], look, &fs_bases[i]);
}
static void wreck(unsigned round) { set_all(1000 + round); }

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
