// What madvise(2) and mlock(2) leave on a mapping, set and cleared since; and pages behind MADV_DONTNEED.
#include "victim.h"

#define SIZE (16 * PAGE)
#define AT(i) ((unsigned char*)(0x230000000000ul + (unsigned long)(i) * 0x1000000ul))
static const struct {
  int set, clear;
  const char* flag;
} marks[] = {{MADV_DONTFORK, MADV_DOFORK, "dc"},
             {MADV_DONTDUMP, MADV_DODUMP, "dd"},
             {MADV_WIPEONFORK, MADV_KEEPONFORK, "wf"},
             {MADV_SEQUENTIAL, MADV_NORMAL, "sr"},
             {MADV_RANDOM, MADV_NORMAL, "rr"},
             {MADV_MERGEABLE, MADV_UNMERGEABLE, "mg"},
             {MADV_HUGEPAGE, MADV_NOHUGEPAGE, "hg"},
             {MADV_NOHUGEPAGE, MADV_HUGEPAGE, "nh"},
             {-1, -1, "lo"}};
#define COUNT ((int)(sizeof marks / sizeof marks[0]))
static bool supported[COUNT];

// Region i carries mark i, region COUNT+i does not.
static bool apply(int mark, unsigned char* at, size_t bytes, bool on) {
  if (marks[mark].set < 0) return (on ? mlock(at, bytes) : munlock(at, bytes)) == 0;
  return madvise(at, bytes, on ? marks[mark].set : marks[mark].clear) == 0;
}
static void make(void) {
  for (int i = 0; i < 2 * COUNT; ++i) {
    MUST((long)mmap(AT(i), SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    fill(AT(i), SIZE, 800 + (uint64_t)i);
    if (i >= COUNT) continue;
    supported[i] = apply(i, AT(i), SIZE, true) && flagged(AT(i), SIZE, marks[i].flag);
  }
}
static void verify(void) {
  for (int i = 0; i < 2 * COUNT; ++i) {
    if (!mapped_as(AT(i), SIZE, "rw-p")) {
      victim_fail("region %d is not mapped", i);
      continue;
    }
    CHECK(filled(AT(i), SIZE, 800 + (uint64_t)i), "contents of region %d differ", i);
    const int mark = i % COUNT;
    if (!supported[mark]) continue;
    if (i < COUNT)
      CHECK(flagged(AT(i), SIZE, marks[mark].flag), "mark %s is missing", marks[mark].flag);
    else
      CHECK(not_flagged(AT(i), SIZE, marks[mark].flag), "mark %s is new", marks[mark].flag);
  }
}
static void wreck(unsigned round) {
  for (int i = 0; i < COUNT; ++i) {
    if (!supported[i]) continue;
    // All of it, or its middle only.
    const size_t from = round % 2 == 0 ? 0 : 4 * PAGE, bytes = round % 2 == 0 ? SIZE : 3 * PAGE;
    apply(i, AT(i) + from, bytes, false);
    // What can never be taken back (hg and nh: neither is what it was) stays as it is on the other side.
    if (marks[i].set != MADV_HUGEPAGE && marks[i].set != MADV_NOHUGEPAGE) apply(i, AT(COUNT + i) + from, bytes, true);
  }
  for (int i = 0; i < 2 * COUNT; ++i) {
    if (madvise(AT(i), SIZE, MADV_DONTNEED) != 0) fill(AT(i), SIZE, 1);
    if (round % 3 == 2) munmap(AT(i), SIZE);
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck}); }
