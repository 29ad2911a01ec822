// Private anonymous mappings at fixed addresses: unmapped, moved, shrunk, grown, replaced, re-protected, dropped,
// holed; and mappings that only the wreck made.
#include "victim.h"

#include <setjmp.h>

#define BASE 0x200000000000ul
#define AT(i) ((unsigned char*)(BASE + (unsigned long)(i) * 0x1000000ul))
#define SIZE (32 * PAGE)

enum {
  kUnmapped,
  kMoved,
  kShrunk,
  kGrown,
  kReplaced,
  kProtected,
  kReadOnly,
  kDropped,
  kHoled,
  kFileInstead,
  kGuard,
  kSparse,
  kCode,
  kSharedInstead,
  kNeighbours,
  REGIONS
};

static const int protection[REGIONS] = {[kReadOnly] = PROT_READ, [kGuard] = PROT_NONE, [kCode] = PROT_READ | PROT_EXEC};
static uint64_t seed(int i) { return 4000 + (uint64_t)i + 100 * victim_state; }
static const char* permissions(int i) {
  switch (i) {
    case kReadOnly:
      return "r--p";
    case kGuard:
      return "---p";
    case kCode:
      return "r-xp";
    default:
      return "rw-p";
  }
}
static void place(void* at, size_t bytes, int protect) {
  MUST((long)mmap(at, bytes, protect, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
}
static unsigned char code_of(unsigned state) { return (unsigned char)(42 + state); }
static void contents(int i) {
  if (i == kSparse) {
    memset(AT(i), 0, SIZE);
    madvise(AT(i), SIZE, MADV_DONTNEED);
    for (int page = 0; page < 32; page += 5) fill(AT(i) + page * (long)PAGE, PAGE, seed(i) + 1000 * (uint64_t)page);
  } else {
    fill(AT(i), SIZE, seed(i));
  }
  if (i == kCode) memcpy(AT(i), (unsigned char[]){0xb8, code_of(victim_state), 0, 0, 0, 0xc3}, 6);  // mov eax, N; ret
}
static void refill(unsigned state) {
  (void)state;
  for (int i = 0; i < REGIONS; ++i) {
    MUST(mprotect(AT(i), SIZE, PROT_READ | PROT_WRITE));
    contents(i);
    if (i == kReadOnly || i == kGuard || i == kCode) MUST(mprotect(AT(i), SIZE, protection[i]));
  }
  MUST(mprotect(AT(kNeighbours) + 8 * PAGE, 4 * PAGE, PROT_READ));
}
static void make(void) {
  for (int i = 0; i < REGIONS; ++i) place(AT(i), SIZE, PROT_READ | PROT_WRITE);
  refill(0);
}
static sigjmp_buf escape;
static void on_fault(int s) {
  (void)s;
  siglongjmp(escape, 1);
}
static bool faults(volatile unsigned char* at, bool write) {
  struct sigaction old, new = {.sa_handler = on_fault};
  sigaction(SIGSEGV, &new, &old);
  bool result = true;
  if (sigsetjmp(escape, 1) == 0) {
    const unsigned char byte = *at;
    if (write) *at = byte;
    result = false;
  }
  sigaction(SIGSEGV, &old, NULL);
  return result;
}
static void verify(void) {
  for (int i = 0; i < REGIONS; ++i) {
    if (i == kNeighbours) {
      const bool good = mapped_as(AT(i), 8 * PAGE, "rw-p") && mapped_as(AT(i) + 8 * PAGE, 4 * PAGE, "r--p") &&
                        mapped_as(AT(i) + 12 * PAGE, SIZE - 12 * PAGE, "rw-p");
      CHECK(good, "protections of region %d differ", i);
      if (!good) continue;
    } else if (!mapped_as(AT(i), SIZE, permissions(i))) {
      victim_fail("region %d is not mapped as %s", i, permissions(i));
      continue;
    }
    CHECK(unmapped(AT(i) - PAGE, PAGE), "something is mapped before region %d", i);
    CHECK(unmapped(AT(i) + SIZE, 32 * PAGE), "something is mapped behind region %d", i);
    if (i == kGuard) {
      CHECK(faults(AT(i), false), "the guard can be read");
      mprotect(AT(i), SIZE, PROT_READ);
      CHECK(filled(AT(i), SIZE, seed(i)), "contents behind the guard differ");
      mprotect(AT(i), SIZE, PROT_NONE);
    } else if (i == kSparse) {
      static const unsigned char zero[PAGE];
      for (int page = 0; page < 32; ++page)
        CHECK(page % 5 == 0 ? filled(AT(i) + page * (long)PAGE, PAGE, seed(i) + 1000 * (uint64_t)page)
                            : memcmp(AT(i) + page * (long)PAGE, zero, PAGE) == 0,
              "page %d of the sparse region differs", page);
    } else if (i == kCode) {
      CHECK_EQUAL("what the code returns", ((int (*)(void))(void*)AT(i))(), code_of(victim_state));
    } else {
      CHECK(filled(AT(i), SIZE, seed(i)), "contents of region %d differ", i);
    }
    if (i == kReadOnly) CHECK(faults(AT(i), true), "the read-only region can be written");
  }
  for (int i = REGIONS; i < REGIONS + 12; ++i)
    CHECK(unmapped(AT(i), 0x1000000), "something new is mapped at %p", (void*)AT(i));
}
static void wreck(unsigned round) {
  munmap(AT(kUnmapped), SIZE);
  mremap(AT(kMoved), SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, AT(REGIONS));
  memset(AT(REGIONS), 1, PAGE);
  if (round % 2 == 1) place(AT(kMoved), SIZE / 2, PROT_READ);
  mremap(AT(kShrunk), SIZE, SIZE / 2, 0);
  MUST((long)mremap(AT(kGrown), SIZE, SIZE + 16 * PAGE, 0));
  fill(AT(kGrown), SIZE + 16 * PAGE, 5);
  MUST((long)mmap(AT(kReplaced), SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
  if (round % 2 == 0) fill(AT(kReplaced) + 3 * PAGE, PAGE, 6);
  fill(AT(kProtected), PAGE, 9);
  mprotect(AT(kProtected), SIZE, PROT_NONE);
  mprotect(AT(kReadOnly), SIZE, PROT_READ | PROT_WRITE);
  fill(AT(kReadOnly), SIZE, 7);
  madvise(AT(kDropped), SIZE, round % 3 == 2 ? MADV_FREE : MADV_DONTNEED);
  munmap(AT(kHoled) + 10 * PAGE, 3 * PAGE);
  mprotect(AT(kHoled) + 20 * PAGE, 3 * PAGE, PROT_READ);
  const int fd = MUST(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  MUST((long)mmap(AT(kFileInstead), 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0));
  close(fd);
  mprotect(AT(kGuard), SIZE, PROT_READ | PROT_WRITE);
  fill(AT(kGuard), SIZE, 8);
  fill(AT(kSparse), SIZE, 10);
  mprotect(AT(kCode), SIZE, PROT_READ | PROT_WRITE);
  fill(AT(kCode), SIZE, 11);
  MUST((long)mmap(AT(kSharedInstead), SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
  fill(AT(kSharedInstead), SIZE, 12);
  mprotect(AT(kNeighbours), SIZE, PROT_READ | PROT_WRITE);
  if (round % 2 == 1) munmap(AT(kNeighbours) + 4 * PAGE, 12 * PAGE);
  for (int i = 1; i < 12; ++i) {
    place(AT(REGIONS + i), SIZE, i % 2 == 0 ? PROT_READ | PROT_WRITE : PROT_READ);
    if (i % 2 == 0) fill(AT(REGIONS + i), SIZE, 13);
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = refill});
}
