// Private mappings of a file: pages written before the snapshot, written since, dropped since; the file deleted
// meanwhile; and the program's own data and code pages.
#include "victim.h"

#define SIZE (32 * PAGE)
static unsigned char* named;
static unsigned char* nameless;
static unsigned char in_data[16 * PAGE] __attribute__((aligned(4096))) = {1, 2, 3};
static const unsigned char constant[4 * PAGE] __attribute__((aligned(4096))) = {9, 8, 7};

static int new_file(const char* path) {
  const int fd = MUST(open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  unsigned char* bytes = malloc(SIZE);
  fill(bytes, SIZE, 500);
  MUST(write(fd, bytes, SIZE));
  free(bytes);
  return fd;
}
// Every fourth page is written, from page `state` on.
static bool written(int page) { return page % 4 == (int)(victim_state % 4); }
static void set_one(unsigned char* at) {
  MUST(madvise(at, SIZE, MADV_DONTNEED));
  for (int page = 0; page < 32; ++page)
    if (written(page)) fill(at + page * (long)PAGE, PAGE, 510 + (uint64_t)page + 100 * victim_state);
}
static void set(unsigned state) {
  set_one(named);
  set_one(nameless);
  fill(in_data + PAGE, 4 * PAGE, 590 + state);
}
static void make(void) {
  int fd = new_file("named");
  named = mmap((void*)0x210000000000ul, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0);
  close(fd);
  fd = new_file("nameless");
  nameless = mmap((void*)0x211000000000ul, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0);
  close(fd);
  unlink("nameless");
  set(0);
}
static void look(const unsigned char* at, const char* name) {
  if (!mapped_as(at, SIZE, "rw-p")) {
    victim_fail("%s is not mapped", name);
    return;
  }
  unsigned char* file = malloc(SIZE);
  fill(file, SIZE, 500);
  for (int page = 0; page < 32; ++page) {
    const unsigned char* p = at + page * (long)PAGE;
    CHECK(written(page) ? filled(p, PAGE, 510 + (uint64_t)page + 100 * victim_state)
                        : memcmp(p, file + page * (long)PAGE, PAGE) == 0,
          "page %d of %s differs", page, name);
  }
  free(file);
}
static void verify(void) {
  look(named, "named");
  look(nameless, "nameless");
  CHECK(in_data[0] == 1 && in_data[1] == 2 && in_data[2] == 3 && in_data[3] == 0, "initialised data differs");
  CHECK(filled(in_data + PAGE, 4 * PAGE, 590 + victim_state), "written data differs");
  for (size_t i = 5 * PAGE; i < sizeof in_data; ++i)
    if (in_data[i] != 0) {
      victim_fail("untouched data differs");
      break;
    }
  CHECK(mapped_as(constant, sizeof constant, "r--p") && constant[0] == 9 && constant[3] == 0, "constants differ");
}
static void wreck(unsigned round) {
  fill(named, SIZE, 1 + round);
  if (round % 2 == 0) {
    munmap(nameless, SIZE);
  } else {
    madvise(nameless, SIZE, MADV_DONTNEED);
    fill(nameless + 9 * PAGE, 2 * PAGE, 3);
  }
  if (round % 3 == 1) munmap(named + 8 * PAGE, 4 * PAGE);
  if (round % 3 == 2)
    MUST((long)mmap(named, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
  fill(in_data, sizeof in_data, 3);
  mprotect((void*)constant, sizeof constant, PROT_READ | PROT_WRITE);
  memset((void*)constant, 5, sizeof constant);
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set}); }
