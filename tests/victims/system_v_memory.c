// System V shared memory: attached twice, at another's address, read-only, its id removed; and one attached since;
// detached since, from one address or from all, so that the segment is gone.
#include "victim.h"

#include <sys/ipc.h>
#include <sys/shm.h>

enum { kPages = 32 };
#define WHERE ((void*)0x200000000000)
static unsigned char *first, *second, *read_only;
static int since = -1;

static void fill_all(void) {
  for (int i = 0; i < kPages; ++i) fill(first + (size_t)i * PAGE, PAGE, 2100 + (uint64_t)i + 50 * victim_state);
}
static void make(void) {
  const int id = MUST(shmget(IPC_PRIVATE, kPages * PAGE, 0600));
  first = shmat(id, NULL, 0);
  second = shmat(id, WHERE, 0);
  read_only = shmat(id, NULL, SHM_RDONLY);
  shmctl(id, IPC_RMID, NULL);  // lives as long as it is attached
  if (first == (void*)-1 || second == (void*)-1 || read_only == (void*)-1) victim_die("shmat");
  fill_all();
}
static void become(unsigned state) {
  (void)state;
  fill_all();
}
static void verify(void) {
  CHECK(second == WHERE && mapped_as(first, kPages * PAGE, "rw-s") && mapped_as(second, kPages * PAGE, "rw-s") &&
            mapped_as(read_only, kPages * PAGE, "r--s"),
        "a segment is mapped in another way");
  for (int i = 0; i < kPages; ++i) {
    const size_t at = (size_t)i * PAGE;
    const uint64_t seed = 2100 + (uint64_t)i + 50 * victim_state;
    CHECK(filled(first + at, PAGE, seed) && filled(second + at, PAGE, seed) && filled(read_only + at, PAGE, seed),
          "page %d differs", i);
  }
  CHECK_EQUAL("segment attached since", since, -1);
}
static void wreck(unsigned round) {
  for (int i = (int)(round % 3); i < kPages; i += 3)
    memset((round % 2 == 0 ? first : second) + (size_t)i * PAGE, (int)round, PAGE);
  if (round % 5 == 3) {
    shmdt(second);
    shmdt(read_only);
  }
  if (round % 5 == 4) {  // nobody is attached any more: it is gone
    shmdt(first);
    shmdt(second);
    shmdt(read_only);
  } else if (round % 4 == 1)
    mprotect(first, 4 * PAGE, PROT_NONE);
  if (round % 4 >= 2 && round % 5 != 4) {
    since = shmget(IPC_PRIVATE, 4 * PAGE, 0600);
    void* at = shmat(since, NULL, 0);
    shmctl(since, IPC_RMID, NULL);
    if (at == (void*)-1) victim_fail("shmat: %s", strerror(errno));
    memset(at, 7, 4 * PAGE);
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
