// Descriptors of regular files and devices: positions, flags, close-on-exec, shared descriptions; closed, replaced,
// swapped and deleted since; and descriptors that only the wreck opened. What the files contain is not part of a
// snapshot.
#include "victim.h"

#include <sys/stat.h>

enum {
  kPlain,
  kAppend,
  kNameless,
  kNameless2,
  kReplaced,
  kShared,
  kSharedToo,
  kSwappedA,
  kSwappedB,
  kNull,
  kZero,
  kReadOnly,
  kDeletedLater,
  FILES
};
static const char* const names[FILES] = {"plain",  "append",   "nameless",     "nameless2", "replaced",
                                         "shared", NULL,       "swapped_a",    "swapped_b", NULL,
                                         NULL,     "readonly", "deleted_later"};
#define FD(i) (100 + (i))
static struct {
  dev_t device;
  ino_t inode;
} identity[FILES];

static off_t position(int i) { return 100 * (i == kSharedToo ? kShared : i) + 7 + 1000 * (off_t)victim_state; }
static int flags(int i) {
  switch (i) {
    case kAppend:
      return O_RDWR | O_APPEND;
    case kReadOnly:
      return O_RDONLY | O_NONBLOCK;
    default:
      return O_RDWR;
  }
}
static bool device(int i) { return i == kNull || i == kZero; }
static int close_on_exec(int i) { return i % 3 == 1 ? FD_CLOEXEC : 0; }

static void take(int fd, int as) {
  MUST(dup2(fd, as));
  if (fd != as) close(fd);
}
static void make(void) {
  for (int i = 0; i < FILES; ++i) {
    if (i == kSharedToo) {
      MUST(dup2(FD(kShared), FD(i)));
    } else if (device(i)) {
      take(MUST(open(i == kNull ? "/dev/null" : "/dev/zero", O_RDWR)), FD(i));
    } else {
      const int fd = MUST(open(names[i], O_RDWR | O_CREAT | O_TRUNC, 0600));
      MUST(ftruncate(fd, 100000));
      if (flags(i) == O_RDWR) {
        take(fd, FD(i));
      } else {
        close(fd);
        take(MUST(open(names[i], flags(i))), FD(i));
      }
    }
    if (i == kNameless || i == kNameless2) unlink(names[i]);
    MUST(fcntl(FD(i), F_SETFD, close_on_exec(i)));
    struct stat s;
    MUST(fstat(FD(i), &s));
    identity[i].device = s.st_dev;
    identity[i].inode = s.st_ino;
    if (!device(i)) MUST(lseek(FD(i), position(i), SEEK_SET));
  }
}
static void become(unsigned state) {
  (void)state;
  for (int i = 0; i < FILES; ++i)
    if (!device(i)) lseek(FD(i), position(i), SEEK_SET);
}
static void verify(void) {
  int open_ones[FILES + 3] = {0, 1, 2};
  for (int i = 0; i < FILES; ++i) {
    open_ones[i + 3] = FD(i);
    struct stat s = {0};
    if (fstat(FD(i), &s) != 0) continue;
    CHECK(s.st_dev == identity[i].device && s.st_ino == identity[i].inode, "descriptor %d is another file", i);
    CHECK_EQUAL("close-on-exec", fcntl(FD(i), F_GETFD), close_on_exec(i));
    CHECK((fcntl(FD(i), F_GETFL) & ~O_LARGEFILE & ~0100000) == flags(i), "flags of descriptor %d are %x", i,
          fcntl(FD(i), F_GETFL));
    if (!device(i))
      CHECK(lseek(FD(i), 0, SEEK_CUR) == position(i), "position of descriptor %d is %ld", i,
            (long)lseek(FD(i), 0, SEEK_CUR));
  }
  check_descriptors(open_ones, FILES + 3);
  // Is the description still shared?
  lseek(FD(kShared), 4321, SEEK_SET);
  CHECK_EQUAL("position of the shared description", lseek(FD(kSharedToo), 0, SEEK_CUR), 4321);
  lseek(FD(kShared), position(kShared), SEEK_SET);
  // And the two that were never one are still two.
  lseek(FD(kSwappedA), 4321, SEEK_SET);
  CHECK_EQUAL("position of an own description", lseek(FD(kSwappedB), 0, SEEK_CUR), position(kSwappedB));
  lseek(FD(kSwappedA), position(kSwappedA), SEEK_SET);
  char byte = 1;
  CHECK(read(FD(kZero), &byte, 1) == 1 && byte == 0, "/dev/zero does not read as zero");
}
static void wreck(unsigned round) {
  for (int i = 0; i < FILES; ++i)
    if (!device(i)) lseek(FD(i), 50000 + i, SEEK_SET);
  fcntl(FD(kPlain), F_SETFL, O_APPEND | O_NONBLOCK);
  fcntl(FD(kAppend), F_SETFL, 0);
  fcntl(FD(kPlain), F_SETFD, FD_CLOEXEC);
  close(FD(kNameless));
  if (round % 2 == 1) close(FD(kNameless2));
  take(MUST(open("intruder", O_RDWR | O_CREAT, 0600)), FD(kReplaced));
  close(FD(kSharedToo));
  if (round % 2 == 0) dup2(FD(kPlain), FD(kSharedToo));
  const int spare = MUST(dup(FD(kSwappedA)));
  dup2(FD(kSwappedB), FD(kSwappedA));
  dup2(spare, FD(kSwappedB));  // and `spare` stays open
  close(FD(kNull));
  take(MUST(open("/dev/null", O_RDONLY)), FD(kZero));
  close(FD(kReadOnly));
  unlink("deleted_later");
  if (round % 3 == 0) close(FD(kDeletedLater));
  MUST(open("new", O_RDWR | O_CREAT, 0600));
  int pipe_ends[2];
  MUST(pipe(pipe_ends));
  MUST(dup2(pipe_ends[0], 300));
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
