// Files of every shape: nameless from the start (O_TMPFILE), renamed, sparse, appended to, of /proc, and references
// that only name something (O_PATH): a file, a directory, a symbolic link, a named pipe, a socket; closed, exchanged
// and moved since.
#include "victim.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum {
  kNameless,
  kRenamed,
  kSparse,
  kAppend,
  kProc,
  kProcDirectory,
  kPathFile,
  kPathDirectory,
  kPathLink,
  kPathPipe,
  kPathSocket,
  kDeletedDirectory,
  FILES
};
#define FD(i) (220 + (i))
static struct stat seen[FILES];
static int flags[FILES];

static off_t position(int i) {
  switch (i) {
    case kNameless:
    case kRenamed:
    case kAppend:
      return 10 + 3 * (off_t)victim_state + i;
    case kSparse:
      return (1L << 40) + (off_t)victim_state;
    case kProc:
      return 20 + (off_t)victim_state;
    default:
      return 0;
  }
}
static void seek_all(void) {
  for (int i = 0; i < FILES; ++i)
    if (position(i) != 0) MUST(lseek(FD(i), position(i), SEEK_SET));
}
static void make(void) {
  mkdir("gone_directory", 0700);
  mkdir("some_directory", 0700);
  unlink("some_link");
  unlink("some_pipe");
  unlink("some_socket");
  MUST(symlink("nowhere", "some_link"));
  MUST(mkfifo("some_pipe", 0600));
  const int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "some_socket"};
  MUST(bind(listener, (struct sockaddr*)&name, sizeof name));
  close(listener);
  const struct {
    const char* path;
    int flags;
  } files[FILES] = {
      [kNameless] = {".", O_TMPFILE | O_RDWR},
      [kRenamed] = {"before", O_RDWR | O_CREAT},
      [kSparse] = {"sparse", O_RDWR | O_CREAT},
      [kAppend] = {"append", O_WRONLY | O_APPEND | O_CREAT},
      [kProc] = {"/proc/self/status", O_RDONLY},
      [kProcDirectory] = {"/proc/self/task", O_RDONLY | O_DIRECTORY},
      [kPathFile] = {"append", O_PATH},
      [kPathDirectory] = {"some_directory", O_PATH | O_DIRECTORY},
      [kPathLink] = {"some_link", O_PATH | O_NOFOLLOW},
      [kPathPipe] = {"some_pipe", O_PATH},
      [kPathSocket] = {"some_socket", O_PATH},
      [kDeletedDirectory] = {"gone_directory", O_RDONLY | O_DIRECTORY},
  };
  for (int i = 0; i < FILES; ++i) {
    int fd = open(files[i].path, files[i].flags, 0600);
    if (fd < 0 && i == kNameless) fd = MUST(open("/dev/shm", files[i].flags, 0600));
    MUST(fd);
    MUST(dup2(fd, FD(i)));
    close(fd);
  }
  MUST(ftruncate(FD(kSparse), 1L << 41));
  MUST(rename("before", "after"));
  rmdir("gone_directory");
  seek_all();
  for (int i = 0; i < FILES; ++i) {
    MUST(fstat(FD(i), &seen[i]));
    flags[i] = MUST(fcntl(FD(i), F_GETFL));
  }
}
static void become(unsigned state) {
  (void)state;
  seek_all();
}
static void verify(void) {
  int open_ones[FILES + 3] = {0, 1, 2};
  for (int i = 0; i < FILES; ++i) {
    open_ones[i + 3] = FD(i);
    struct stat s = {0};
    if (fstat(FD(i), &s) != 0) {
      victim_fail("descriptor %d is closed", i);
      continue;
    }
    CHECK(s.st_dev == seen[i].st_dev && s.st_ino == seen[i].st_ino && s.st_mode == seen[i].st_mode,
          "descriptor %d is another file", i);
    CHECK(fcntl(FD(i), F_GETFL) == flags[i], "flags of descriptor %d are %o, want %o", i, fcntl(FD(i), F_GETFL),
          flags[i]);
    if (position(i) != 0)
      CHECK(lseek(FD(i), 0, SEEK_CUR) == position(i), "position of descriptor %d is %ld", i,
            (long)lseek(FD(i), 0, SEEK_CUR));
  }
  check_descriptors(open_ones, FILES + 3);
  char text[100] = "";
  CHECK(readlinkat(FD(kPathLink), "", text, sizeof text) == 7 && memcmp(text, "nowhere", 7) == 0,
        "the reference to a link leads to %s", text);
  char all[8192];
  MUST(lseek(FD(kProc), 0, SEEK_SET));
  CHECK(read(FD(kProc), all, sizeof all) > 100 && memcmp(all, "Name:", 5) == 0, "/proc/self/status reads wrong");
  MUST(lseek(FD(kProc), position(kProc), SEEK_SET));
}
static void wreck(unsigned round) {
  char some[10] = "wrecked..";
  for (int i = 0; i < FILES; ++i)
    if (position(i) != 0) lseek(FD(i), 3, SEEK_SET);
  CHECK(write(FD(kAppend), some, sizeof some) == (ssize_t)sizeof some, "appending: %s", strerror(errno));
  fcntl(FD(kAppend), F_SETFL, 0);
  fcntl(FD(kSparse), F_SETFL, O_APPEND);
  CHECK(read(FD(kProc), some, sizeof some) == (ssize_t)sizeof some, "reading /proc: %s", strerror(errno));
  rename("after", round % 2 == 0 ? "elsewhere" : "after");
  rename("elsewhere", "after");
  if (round % 3 == 1) {
    for (int i = 0; i < FILES; ++i) close(FD(i));
    MUST(dup2(MUST(open(".", O_PATH)), FD(kPathSocket)));
  } else if (round % 3 == 2) {
    const int spare = MUST(dup(FD(kPathPipe)));
    MUST(dup2(FD(kPathSocket), FD(kPathPipe)));
    MUST(dup2(spare, FD(kPathSocket)));
    MUST(dup2(FD(kPathFile), FD(kPathDirectory)));
    close(FD(kPathLink));
    close(FD(kNameless));
    MUST(open("append", O_PATH));
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
