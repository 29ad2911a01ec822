// memfds: contents, sizes, holes, seals, positions; mapped and not, read-only descriptors, closed, replaced, truncated
// and refilled since, written through descriptors and through mappings.
#include "victim.h"

#include <sys/stat.h>

enum { kPlain, kHoles, kEmpty, kMapped, kSealedSize, kSealedWrite, kReadOnly, kShared, kGrows, FILES };
#define FD(i) (170 + (i))
#define MAPPED_AT ((unsigned char*)0x230000000000ul)
static ino_t inodes[FILES];

static size_t size_of(int i) {
  switch (i) {
    case kHoles:
      return 3u << 20;
    case kEmpty:
      return 0;
    case kMapped:
      return 16 * PAGE;
    case kSealedSize:
    case kSealedWrite:
      return 5 * PAGE;
    case kGrows:
      return victim_state == 0 ? 100 : 300000;
    default:
      return 200001;
  }
}
static uint64_t seed(int i) { return 1300 + (uint64_t)i + (i == kSealedWrite ? 0 : 20 * victim_state); }
static int seals_of(int i) {
  if (i == kSealedSize) return F_SEAL_GROW | F_SEAL_SHRINK;
  if (i == kSealedWrite) return F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE | F_SEAL_SEAL;
  return 0;
}
static off_t position(int i) { return 1000 + 10 * i + (off_t)victim_state; }

static void put(int fd, size_t bytes, off_t at, uint64_t with) {
  unsigned char* p = malloc(bytes + 1);
  fill(p, bytes, with);
  CHECK(pwrite(fd, p, bytes, at) == (ssize_t)bytes, "writing to a memfd: %s", strerror(errno));
  free(p);
}
static void put_all(int i, int fd) {
  if (size_of(i) == 0) return;
  if (i == kHoles) {
    put(fd, 10000, 0, seed(i));
    put(fd, 5000, 1 << 20, seed(i) + 1);
  } else {
    put(fd, size_of(i), 0, seed(i));
  }
}
static int writable(int i) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", FD(i));
  return MUST(open(path, O_RDWR));
}
static void make(void) {
  for (int i = 0; i < FILES; ++i) {
    int fd = MUST(memfd_create("victim", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    MUST(ftruncate(fd, (off_t)size_of(i)));
    put_all(i, fd);
    if (seals_of(i) != 0) MUST(fcntl(fd, F_ADD_SEALS, seals_of(i)));
    MUST(dup3(fd, FD(i), O_CLOEXEC));
    close(fd);
    if (i == kReadOnly) {
      char path[64];
      snprintf(path, sizeof path, "/proc/self/fd/%d", FD(i));
      fd = MUST(open(path, O_RDONLY));
      MUST(dup3(fd, FD(i), O_CLOEXEC));
      close(fd);
    }
    MUST(lseek(FD(i), position(i), SEEK_SET));
    struct stat s;
    MUST(fstat(FD(i), &s));
    inodes[i] = s.st_ino;
  }
  MUST((long)mmap(MAPPED_AT, size_of(kMapped), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, FD(kMapped),
                  0));
}
static void become(unsigned state) {
  (void)state;
  for (int i = 0; i < FILES; ++i) {
    lseek(FD(i), position(i), SEEK_SET);
    if (i == kSealedWrite) continue;
    const int fd = writable(i);
    if (i != kSealedSize) ftruncate(fd, (off_t)size_of(i));
    put_all(i, fd);  // of the mapped one behind the mapping's back
    close(fd);
  }
}
static void verify(void) {
  int open_ones[FILES + 3] = {0, 1, 2};
  for (int i = 0; i < FILES; ++i) {
    open_ones[i + 3] = FD(i);
    struct stat s = {0};
    if (fstat(FD(i), &s) != 0) {
      victim_fail("memfd %d is closed", i);
      continue;
    }
    CHECK(s.st_ino == inodes[i], "memfd %d is another file", i);
    CHECK(s.st_size == (off_t)size_of(i), "memfd %d has %ld bytes", i, (long)s.st_size);
    CHECK_EQUAL("seals", fcntl(FD(i), F_GET_SEALS), seals_of(i));
    CHECK_EQUAL("position", lseek(FD(i), 0, SEEK_CUR), position(i));
    CHECK_EQUAL("mode", fcntl(FD(i), F_GETFL) & O_ACCMODE, i == kReadOnly ? O_RDONLY : O_RDWR);
    unsigned char* p = calloc(1, size_of(i) + 1);
    CHECK(pread(FD(i), p, size_of(i), 0) == (ssize_t)size_of(i), "memfd %d reads short", i);
    if (i == kHoles) {
      CHECK(filled(p, 10000, seed(i)) && filled(p + (1 << 20), 5000, seed(i) + 1), "contents of memfd %d differ", i);
      size_t other = 0;
      for (size_t at = 10000; at < size_of(i); ++at)
        if ((at < 1 << 20 || at >= (1 << 20) + 5000) && p[at] != 0) ++other;
      CHECK(other == 0, "%zu bytes in the holes of memfd %d", other, i);
    } else {
      CHECK(filled(p, size_of(i), seed(i)), "contents of memfd %d differ", i);
    }
    free(p);
  }
  check_descriptors(open_ones, FILES + 3);
  CHECK(filled(MAPPED_AT, size_of(kMapped), seed(kMapped)), "the mapped contents differ");
}
static void wreck(unsigned round) {
  const int pages = (int)(size_of(kMapped) / PAGE);
  for (int page = 0; page < pages; page += 1 + (int)(round % 3)) MAPPED_AT[(size_t)page * PAGE + 9] ^= 0x55;
  put(FD(kMapped), 5000, 3 * PAGE + 100, 9);
  put(FD(kSealedSize), 3000, 4000, 9);
  for (int i = 0; i < FILES; ++i) lseek(FD(i), 77, SEEK_SET);
  switch (round % 4) {
    case 0:
      ftruncate(FD(kPlain), 5);
      put(FD(kEmpty), 70000, 10, 9);
      put(FD(kHoles), 9000, 2 << 20, 9);
      ftruncate(FD(kGrows), 1 << 20);
      break;
    case 1:  // written and closed
      put(FD(kPlain), 500, 100000, 9);
      put(FD(kShared), 500, 190000, 9);
      for (int i = 0; i < FILES; ++i) close(FD(i));
      MUST(dup2(MUST(memfd_create("another", 0)), FD(kPlain)));
      break;
    case 2:  // all of it made a hole
      for (int i = 0; i < FILES; ++i) {
        if (seals_of(i) != 0 || i == kReadOnly) continue;
        ftruncate(FD(i), 0);
        ftruncate(FD(i), (off_t)size_of(i) + 5);
      }
      ftruncate(FD(kMapped), (off_t)size_of(kMapped));
      break;
    case 3: {
      const int fd = writable(kReadOnly);
      put(fd, 100000, 1000, 9);
      close(FD(kReadOnly));
      MUST(dup2(FD(kPlain), FD(kShared)));
      break;
    }
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
