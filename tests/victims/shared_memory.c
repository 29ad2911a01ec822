// Shared memory: anonymous, of a file (named and deleted), of a memfd (mapped twice, written through its descriptor
// too).
#include "victim.h"

#define SIZE (24 * PAGE)
enum { kAnonymous, kFile, kDeleted, kMemfd, kMemfdAgain, kUntouched, kReadOnly, KINDS };
static const char* const names[] = {"anonymous",   "file",      "deleted file", "memfd",
                                    "memfd again", "untouched", "read-only"};
#define AT(i) ((unsigned char*)(0x220000000000ul + (unsigned long)(i) * 0x1000000ul))

static uint64_t seed(int i) { return 700 + (uint64_t)(i == kMemfdAgain ? kMemfd : i) + 100 * victim_state; }
static int file(const char* name) {
  const int fd = MUST(open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  MUST(ftruncate(fd, SIZE));
  return fd;
}
static void map(int i, int fd) {
  const int protection = i == kReadOnly ? PROT_READ : PROT_READ | PROT_WRITE;
  MUST((long)mmap(AT(i), SIZE, protection, MAP_SHARED | MAP_FIXED_NOREPLACE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0));
}
static void set(unsigned state) {
  (void)state;
  for (int i = 0; i < KINDS; ++i)
    if (i != kUntouched && i != kReadOnly) fill(AT(i), SIZE, seed(i));
}
static void make(void) {
  map(kAnonymous, -1);
  map(kUntouched, -1);
  int fd = file("shared");
  map(kFile, fd);
  close(fd);
  fd = file("deleted");
  map(kDeleted, fd);
  close(fd);
  unlink("deleted");
  fd = file("readonly");
  map(kReadOnly, fd);
  close(fd);
  const int memfd = MUST(memfd_create("victim", MFD_CLOEXEC));
  MUST(ftruncate(memfd, SIZE));
  map(kMemfd, memfd);
  map(kMemfdAgain, memfd);
  close(memfd);
  set(0);
}
static void verify(void) {
  static const unsigned char zero[SIZE];
  for (int i = 0; i < KINDS; ++i) {
    if (!mapped_as(AT(i), SIZE, i == kReadOnly ? "r--s" : "rw-s")) {
      victim_fail("%s is not mapped", names[i]);
      continue;
    }
    if (i == kUntouched || i == kReadOnly)
      CHECK(memcmp(AT(i), zero, SIZE) == 0, "%s differs", names[i]);
    else
      CHECK(filled(AT(i), SIZE, seed(i)), "%s differs", names[i]);
  }
}
static void wreck(unsigned round) {
  for (int i = 0; i < KINDS; ++i)
    if (i != kReadOnly) fill(AT(i), SIZE, 1 + (uint64_t)i + round);
  if (round % 3 == 0) return;
  munmap(AT(kDeleted), SIZE);
  munmap(AT(kMemfdAgain), SIZE);
  mprotect(AT(kFile), SIZE, PROT_READ);
  mprotect(AT(kReadOnly), SIZE, PROT_NONE);
  if (round % 3 == 1) {
    munmap(AT(kAnonymous), SIZE);
    munmap(AT(kFile) + 4 * PAGE, PAGE);
  } else {
    mremap(AT(kAnonymous), SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, AT(KINDS + 1));
    MUST((long)mmap(AT(kFile), SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set}); }
