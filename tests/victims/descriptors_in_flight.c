// Unread unix messages that carry descriptors: of files that are open under a number, too, of files that are open
// nowhere else, several at once, one file twice; with bytes before and after them in a stream; between packets; of
// pipes and of the very socket. Received since, with their positions moved; sent since; the sockets closed since.
#include "victim.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { kStream, kPackets, kDatagrams, kHalfRead, PAIRS };
#define FD(i, side) (280 + 2 * (i) + (side))
enum { kNumbered = 290, kCounter, kPipeIn, kPipeOut, kDirectory };
static struct stat lonely;  // a deleted file that is open in flight only
static struct stat numbered;

static int type(int i) { return i == kPackets ? SOCK_SEQPACKET : i == kDatagrams ? SOCK_DGRAM : SOCK_STREAM; }
static void place(int fd, int to) {
  MUST(dup3(MUST(fd), to, O_CLOEXEC));
  close(fd);
}
static void put(int fd, const char* text, const int* files, size_t count) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(8 * sizeof(int))];
  } control = {.bytes = {0}};
  struct iovec piece = {(void*)text, strlen(text)};
  struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
  if (count != 0) {
    message.msg_control = &control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    control.header = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.header), files, count * sizeof(int));
  }
  CHECK(sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)strlen(text), "sendmsg: %s", strerror(errno));
}
// Returns how many files came; they are open from then on.
static size_t take(int fd, int flags, char* text, size_t room, int* files) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(8 * sizeof(int))];
  } control;
  struct iovec piece = {text, room};
  struct msghdr message = {
      .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  const ssize_t got = recvmsg(fd, &message, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  text[got < 0 ? 0 : got] = 0;
  if (got < 0) victim_fail("recvmsg: %s", strerror(errno));
  const struct cmsghdr* const header = got < 0 ? NULL : CMSG_FIRSTHDR(&message);
  if (header == NULL || header->cmsg_type != SCM_RIGHTS) return 0;
  const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  memcpy(files, CMSG_DATA(header), count * sizeof(int));
  return count;
}
static void drain(int fd) {
  char rest[256];
  while (recv(fd, rest, sizeof rest, MSG_DONTWAIT) > 0) {
  }
}
static int open_lonely(void) {
  const int fd = MUST(open("lonely", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  MUST(write(fd, "0123456789", 10));
  MUST(lseek(fd, 4, SEEK_SET));
  MUST(fstat(fd, &lonely));
  MUST(unlink("lonely"));
  return fd;
}
static void fill_all(unsigned state) {
  for (int i = 0; i < PAIRS; ++i)
    for (int side = 0; side < 2; ++side) drain(FD(i, side));
  const int fd = open_lonely();
  const int three[3] = {fd, kNumbered, kNumbered};
  put(FD(kStream, 0), "before", NULL, 0);
  put(FD(kStream, 0), "with", three, 3);
  put(FD(kStream, 0), state % 2 == 0 ? "after" : "later", NULL, 0);
  put(FD(kStream, 1), "counter", (int[]){kCounter}, 1);
  put(FD(kPackets, 0), "one", (int[]){kPipeOut, kPipeIn}, 2);
  put(FD(kPackets, 0), "two", NULL, 0);
  if (state % 2 == 1) put(FD(kPackets, 0), "three", (int[]){FD(kPackets, 0)}, 1);
  put(FD(kDatagrams, 1), "directory", (int[]){kDirectory, fd}, 2);
  put(FD(kHalfRead, 0), "halves", (int[]){fd}, 1);
  close(fd);
  char half[8];
  int files[8];
  CHECK(take(FD(kHalfRead, 1), 0, half, 3, files) == 1, "a file is lost");
  close(files[0]);
}
static void make(void) {
  place(open("numbered", O_RDWR | O_CREAT | O_TRUNC, 0600), kNumbered);
  MUST(fstat(kNumbered, &numbered));
  place(eventfd(3, 0), kCounter);
  int ends[2];
  MUST(pipe(ends));
  place(ends[0], kPipeOut);
  place(ends[1], kPipeIn);
  place(open("/", O_RDONLY | O_DIRECTORY), kDirectory);
  for (int i = 0; i < PAIRS; ++i) {
    MUST(socketpair(AF_UNIX, type(i), 0, ends));
    place(ends[0], FD(i, 0));
    place(ends[1], FD(i, 1));
  }
  fill_all(0);
}
static bool is_lonely(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 && status.st_ino == lonely.st_ino && status.st_nlink == 0 &&
         lseek(fd, 0, SEEK_CUR) == 4;
}
static void verify(void) {
  int open_ones[3 + 2 * PAIRS + 5] = {0, 1, 2, kNumbered, kCounter, kPipeIn, kPipeOut, kDirectory};
  for (int i = 0; i < 2 * PAIRS; ++i) open_ones[8 + i] = 280 + i;
  check_descriptors(open_ones, 8 + 2 * PAIRS);
  char text[64];
  int files[8];
  struct stat status;
  // Exactly so much as was sent before the files, which would come with what follows.
  CHECK(take(FD(kStream, 1), 0, text, 6, files) == 0 && strcmp(text, "before") == 0, "before the files: %s", text);
  const size_t count = take(FD(kStream, 1), 0, text, sizeof text - 1, files);
  CHECK(count == 3 && strcmp(text, "with") == 0, "%zu files with '%s'", count, text);
  if (count == 3) {
    CHECK(is_lonely(files[0]), "the file that was in flight only is another");
    for (int at = 1; at < 3; ++at)
      CHECK(fstat(files[at], &status) == 0 && status.st_ino == numbered.st_ino, "file %d is another", at);
    lseek(kNumbered, 7, SEEK_SET);
    CHECK(lseek(files[1], 0, SEEK_CUR) == 7, "the file in flight is not the one under the number");
    lseek(kNumbered, 0, SEEK_SET);
  }
  for (size_t at = 0; at < count; ++at) close(files[at]);
  CHECK(take(FD(kStream, 1), 0, text, sizeof text - 1, files) == 0 &&
            strcmp(text, victim_state % 2 == 0 ? "after" : "later") == 0,
        "behind the files: %s", text);

  if (take(FD(kStream, 0), 0, text, sizeof text - 1, files) == 1) {
    eventfd_t value = 0;
    eventfd_write(kCounter, 1);
    CHECK(eventfd_read(files[0], &value) == 0 && value == 4, "the counter in flight is another");
    eventfd_write(kCounter, 3);
    close(files[0]);
  } else {
    victim_fail("no counter came");
  }
  if (take(FD(kPackets, 1), 0, text, sizeof text - 1, files) == 2) {
    CHECK(strcmp(text, "one") == 0, "the packet is '%s'", text);
    CHECK(write(files[1], "x", 1) == 1 && read(kPipeOut, text, 1) == 1, "the pipe in flight is another");
    CHECK(write(kPipeIn, "y", 1) == 1 && read(files[0], text, 1) == 1, "the pipe in flight is another");
    close(files[0]);
    close(files[1]);
  } else {
    victim_fail("no pipe came");
  }
  CHECK(take(FD(kPackets, 1), 0, text, sizeof text - 1, files) == 0 && strcmp(text, "two") == 0, "packet '%s'", text);
  if (victim_state % 2 == 1) {
    if (take(FD(kPackets, 1), 0, text, sizeof text - 1, files) == 1) {
      put(files[0], "back", NULL, 0);
      take(FD(kPackets, 1), 0, text, sizeof text - 1, files + 1);
      CHECK(strcmp(text, "back") == 0, "the socket in flight is another");
      close(files[0]);
    } else {
      victim_fail("no socket came");
    }
  }
  if (take(FD(kDatagrams, 0), 0, text, sizeof text - 1, files) == 2) {
    CHECK(fstat(files[0], &status) == 0 && S_ISDIR(status.st_mode), "the directory in flight is another");
    CHECK(is_lonely(files[1]), "the file of the datagram is another");
    close(files[0]);
    close(files[1]);
  } else {
    victim_fail("no directory came");
  }
  CHECK(take(FD(kHalfRead, 1), 0, text, sizeof text - 1, files) == 0 && strcmp(text, "ves") == 0, "the half is '%s'",
        text);
  for (int i = 0; i < PAIRS; ++i)
    for (int side = 0; side < 2; ++side)
      CHECK(recv(FD(i, side), text, 1, MSG_DONTWAIT) == -1, "more waits at %d/%d", i, side);
  fill_all(victim_state);
}
static void wreck(unsigned round) {
  char text[64];
  int files[8];
  if (round % 2 == 0) {  // received, and moved
    take(FD(kStream, 1), 0, text, 6, files);
    if (take(FD(kStream, 1), 0, text, sizeof text - 1, files) == 3) lseek(files[0], 9, SEEK_SET);
    take(FD(kDatagrams, 0), 0, text, sizeof text - 1, files);
  }
  put(FD(kPackets, 0), "since", (int[]){kNumbered, 0}, 2);
  const int other = MUST(open("numbered", O_RDWR | O_CLOEXEC));  // another open file of it, in flight only
  put(FD(kHalfRead, 0), "since", (int[]){1, other}, 2);
  close(other);
  switch (round % 5) {
    case 1:
      for (int i = 0; i < PAIRS; ++i)
        for (int side = 0; side < 2; ++side) close(FD(i, side));
      close(kNumbered);
      break;
    case 2:
      close(FD(kStream, 0));
      close(FD(kPackets, 1));
      close(kCounter);
      close(kPipeIn);
      close(kNumbered);
      break;
    case 3:
      for (int i = 0; i < PAIRS; ++i)
        for (int side = 0; side < 2; ++side) drain(FD(i, side));
      MUST(dup2(0, kNumbered));
      close(kDirectory);
      break;
    case 4:
      MUST(dup2(kNumbered, 300));
      MUST(dup2(kCounter, kNumbered));
      MUST(dup2(300, kCounter));
      drain(FD(kStream, 0));
      break;
    default:
      break;
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = fill_all});
}
