// A directory in the middle of its being read.
#include "victim.h"

#include <sys/stat.h>

#define ENTRIES 200
static int fd;
static off_t position;
static int read_before;

struct entry {
  uint64_t inode;
  int64_t next;
  uint16_t length;
  uint8_t type;
  char name[];
};
// Reads one small buffer; counts the files in it, -1 at the end. Marks them in `seen`.
static int read_some(bool* seen) {
  char buffer[256] __attribute__((aligned(8)));
  const long bytes = syscall(SYS_getdents64, fd, buffer, sizeof buffer);
  if (bytes <= 0) return -1;
  int count = 0;
  for (long at = 0; at < bytes;) {
    const struct entry* e = (const struct entry*)(const void*)(buffer + at);
    at += e->length;
    if (e->name[0] == '.') continue;
    const int number = atoi(e->name + 1);
    CHECK(number >= 0 && number < ENTRIES && !seen[number], "entry %s comes twice", e->name);
    seen[number] = true;
    ++count;
  }
  return count;
}
static bool seen_before[ENTRIES];
static void read_more(unsigned state) {
  (void)state;
  for (int i = 0; i < 5; ++i) read_before += read_some(seen_before);
  position = lseek(fd, 0, SEEK_CUR);
}
static void make(void) {
  if (mkdir("entries", 0700) != 0 && errno != EEXIST) victim_die("mkdir");
  for (int i = 0; i < ENTRIES; ++i) {
    char name[32];
    snprintf(name, sizeof name, "entries/e%d", i);
    close(MUST(open(name, O_CREAT | O_WRONLY, 0600)));
  }
  fd = MUST(open("entries", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  read_more(0);
}
static void verify(void) {
  CHECK(lseek(fd, 0, SEEK_CUR) == position, "the position differs");
  bool seen[ENTRIES];
  memcpy(seen, seen_before, sizeof seen);
  int total = read_before;
  for (int n; (n = read_some(seen)) >= 0;) total += n;
  CHECK_EQUAL("entries", total, ENTRIES);
  lseek(fd, position, SEEK_SET);
}
static void wreck(unsigned round) {
  if (round % 3 == 0) lseek(fd, 0, SEEK_SET);
  if (round % 3 == 1)
    for (bool seen[ENTRIES] = {false}; read_some(seen) >= 0;) {
    }
  if (round % 3 == 2) {
    close(fd);
    MUST(open("/dev/null", O_RDONLY));
  }
  read_before = 0;
  memset(seen_before, 1, sizeof seen_before);
  // read_some complains about entries that it saw already: that is the wreck's doing.
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = read_more});
}
