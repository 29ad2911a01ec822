// Locks and leases: POSIX locks (of the process), flock and open-file-description locks (of the description), leases;
// read and write, ranges, several a file, released since, taken since, weakened, moved; their files closed, replaced,
// renamed and opened a second time since.
#include "victim.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#ifndef F_OFD_SETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif

enum { kPosix, kPosix2, kPosixGone, kOpenFile, kFlock, kFlockShared, kFlockDirectory, kLease, kUnlocked, FILES };
static const char* const names[FILES] = {"posix",        "posix", "posix_gone", "open_file", "flock",
                                         "flock_shared", NULL,    "lease",      "unlocked"};
#define FD(i) (150 + (i))
static ino_t inodes[FILES];

// What stands: by file, by state.
struct range {
  int file;
  int kind;  // 'p'osix, 'o'pen file
  short type;
  off_t start, length;
};
static const struct range ranges[2][8] = {
    {{kPosix, 'p', F_WRLCK, 0, 10},
     {kPosix, 'p', F_RDLCK, 20, 10},
     {kPosix2, 'p', F_WRLCK, 100, 0},
     {kPosixGone, 'p', F_WRLCK, 5, 1},
     {kOpenFile, 'o', F_WRLCK, 0, 100},
     {kOpenFile, 'o', F_RDLCK, 200, 50},
     {kOpenFile, 'o', F_WRLCK, 1000, 0}},
    {{kPosix, 'p', F_RDLCK, 5, 10},
     {kPosix2, 'p', F_WRLCK, 90, 20},
     {kPosixGone, 'p', F_RDLCK, 0, 0},
     {kOpenFile, 'o', F_RDLCK, 50, 100}},
};
static int flock_of(int file) {
  if (file == kFlock) return victim_state == 0 ? LOCK_EX : LOCK_SH;
  if (file == kFlockShared) return victim_state == 0 ? LOCK_SH : LOCK_EX;
  if (file == kFlockDirectory) return LOCK_EX;
  return LOCK_UN;
}
static int lease_of(void) { return victim_state == 0 ? F_WRLCK : F_UNLCK; }

static struct flock as_flock(const struct range* r) {
  return (struct flock){.l_type = r->type, .l_whence = SEEK_SET, .l_start = r->start, .l_len = r->length};
}
static void open_all(void) {
  mkdir("flock_directory", 0700);
  for (int i = 0; i < FILES; ++i) {
    int fd;
    if (i == kFlockDirectory)
      fd = MUST(open("flock_directory", O_RDONLY | O_DIRECTORY));
    else
      fd = MUST(open(names[i], O_RDWR | O_CREAT, 0600));
    if (i != kFlockDirectory) MUST(ftruncate(fd, 5000));
    MUST(dup2(fd, FD(i)));
    close(fd);
    struct stat s;
    MUST(fstat(FD(i), &s));
    inodes[i] = s.st_ino;
  }
  unlink("posix_gone");
}
static void let_go(void) {
  for (int i = 0; i < FILES; ++i) {
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    fcntl(FD(i), F_SETLK, &all);
    fcntl(FD(i), F_OFD_SETLK, &all);
    flock(FD(i), LOCK_UN);
    fcntl(FD(i), F_SETLEASE, F_UNLCK);
  }
}
static void take(void) {
  for (const struct range* r = ranges[victim_state % 2]; r->kind != 0; ++r) {
    struct flock lock = as_flock(r);
    MUST(fcntl(FD(r->file), r->kind == 'p' ? F_SETLK : F_OFD_SETLK, &lock));
  }
  for (int i = 0; i < FILES; ++i)
    if (flock_of(i) != LOCK_UN) MUST(flock(FD(i), flock_of(i) | LOCK_NB));
  if (lease_of() != F_UNLCK) MUST(fcntl(FD(kLease), F_SETLEASE, lease_of()));
}
static void make(void) {
  open_all();
  signal(SIGIO, SIG_IGN);
  take();
}
static void become(unsigned state) {
  (void)state;
  let_go();
  take();
}

// What another process finds. It opens the files anew: a lock of a description stands in the way of another one, and
// the close of a descriptor of its own lets go of none of ours.
static const off_t bytes[] = {0,  4,  5,   6,   9,   10,  14,  15,  19,  20,  29,  30,  49,   50,    89,
                              90, 99, 100, 109, 110, 149, 150, 199, 200, 249, 250, 999, 1000, 123456};
#define BYTES (sizeof bytes / sizeof *bytes)
struct view {
  char modes[FILES][BYTES];
  bool shared[FILES], exclusive[FILES];
};
static int open_again(int i, int mode) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", FD(i));
  return open(path, mode);
}
static char mode_at(int fd, off_t byte) {
  struct flock probe = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
  if (fcntl(fd, F_OFD_GETLK, &probe) != 0) return '?';
  if (probe.l_type != F_UNLCK) return 'w';
  probe = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
  if (fcntl(fd, F_OFD_GETLK, &probe) != 0) return '?';
  return probe.l_type != F_UNLCK ? 'r' : '-';
}
static void look(struct view* view) {
  for (int i = 0; i < FILES; ++i) {
    if (i == kLease) continue;
    const int fd = open_again(i, i == kFlockDirectory ? O_RDONLY : O_RDWR);
    for (size_t b = 0; b < BYTES && i != kFlockDirectory; ++b) view->modes[i][b] = mode_at(fd, bytes[b]);
    view->shared[i] = flock(fd, LOCK_SH | LOCK_NB) == 0;
    view->exclusive[i] = flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
  }
}
static char wanted_at(int i, off_t byte) {
  char mode = '-';
  for (const struct range* r = ranges[victim_state % 2]; r->kind != 0; ++r) {
    if (inodes[r->file] != inodes[i] || byte < r->start || (r->length != 0 && byte >= r->start + r->length)) continue;
    mode = r->type == F_RDLCK ? 'r' : 'w';
  }
  return mode;
}
static void check(const struct view* view) {
  for (int i = 0; i < FILES; ++i) {
    if (i == kLease) continue;
    for (size_t b = 0; b < BYTES && i != kFlockDirectory; ++b)
      CHECK(view->modes[i][b] == wanted_at(i, bytes[b]), "byte %ld of file %d is '%c' for others, want '%c'",
            (long)bytes[b], i, view->modes[i][b], wanted_at(i, bytes[b]));
    const int want = flock_of(i);
    CHECK(view->shared[i] == (want != LOCK_EX) && view->exclusive[i] == (want == LOCK_UN),
          "others may take file %d: shared %d, exclusive %d", i, view->shared[i], view->exclusive[i]);
  }
}
static void verify(void) {
  int open_ones[FILES + 3] = {0, 1, 2};
  for (int i = 0; i < FILES; ++i) {
    open_ones[i + 3] = FD(i);
    struct stat s = {0};
    CHECK(fstat(FD(i), &s) == 0 && s.st_ino == inodes[i], "descriptor %d is another file", i);
  }
  check_descriptors(open_ones, FILES + 3);
  CHECK_EQUAL("lease", fcntl(FD(kLease), F_GETLEASE), lease_of());
  int ends[2];
  MUST(pipe(ends));
  const pid_t child = fork();
  if (child == 0) {
    struct view view = {0};
    look(&view);
    _exit(write(ends[1], &view, sizeof view) == (ssize_t)sizeof view ? 0 : 1);
  }
  close(ends[1]);
  struct view view = {0};
  CHECK(read(ends[0], &view, sizeof view) == (ssize_t)sizeof view, "the child tells nothing");
  close(ends[0]);
  while (waitpid(child, NULL, 0) < 0 && errno == EINTR) continue;
  check(&view);
}
static void lock(int i, int command, short type, off_t start, off_t length) {
  struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
  CHECK(fcntl(FD(i), command, &range) == 0, "wreck: locking file %d: %s", i, strerror(errno));
}
static void wreck(unsigned round) {
  switch (round % 6) {
    case 0:  // released, and others taken
      let_go();
      flock(FD(kUnlocked), LOCK_EX);
      lock(kUnlocked, F_SETLK, F_WRLCK, 10, 10);
      lock(kFlock, F_OFD_SETLK, F_WRLCK, 0, 0);
      break;
    case 1:  // closed, replaced
      for (int i = 0; i < FILES; ++i) close(FD(i));
      MUST(dup2(0, FD(kFlock)));
      MUST(open("flock", O_RDWR));
      break;
    case 2:  // a second descriptor of the file is closed: the POSIX locks are gone
      close(MUST(open("posix", O_RDONLY)));
      close(MUST(dup(FD(kPosixGone))));
      MUST(open("posix", O_RDONLY));
      break;
    case 3:  // weakened, strengthened, moved
      flock(FD(kFlock), LOCK_SH);
      flock(FD(kFlockShared), LOCK_EX);
      lock(kPosix, F_SETLK, F_RDLCK, 0, 5);
      lock(kPosix, F_SETLK, F_WRLCK, 15, 10);
      lock(kPosix, F_SETLK, F_UNLCK, 25, 2);
      lock(kPosixGone, F_SETLK, F_WRLCK, 0, 0);
      lock(kOpenFile, F_OFD_SETLK, F_RDLCK, 10, 10);
      lock(kOpenFile, F_OFD_SETLK, F_UNLCK, 60, 1000);
      fcntl(FD(kLease), F_SETLEASE, F_UNLCK);
      break;
    case 4:  // under other numbers and names
      MUST(dup2(FD(kFlock), 310));
      MUST(dup2(FD(kOpenFile), FD(kFlock)));
      MUST(dup2(310, FD(kOpenFile)));
      MUST(dup2(FD(kLease), 311));
      close(FD(kLease));
      close(FD(kPosix));
      rename("flock", "flock_moved");
      rename("flock_moved", "flock");
      break;
    case 5:  // the locks stand, and a descriptor that is to be closed would let go of them
      MUST(open("posix", O_RDWR));
      MUST(dup(FD(kPosixGone)));
      break;
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
