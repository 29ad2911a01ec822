// Names of unix sockets: relative ones, from the working directory and from another one; deleted ones; abstract ones,
// with zeros in them, and given by the kernel; files with modes of their own. Closed since, from another working
// directory.
#include "victim.h"

#include <linux/sockios.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { kRelative, kDeep, kElsewhere, kDeleted, kDeletedRelative, kZeros, kGiven, kBound, kGrams, kSender, SOCKETS };
#define FD(i) (270 + (i))
enum { kConnected = 270 + SOCKETS };  // a datagram socket connected to kGrams, by its relative name
static struct sockaddr_un names[SOCKETS];
static socklen_t lengths[SOCKETS];
static char home[200];

static int type(int i) { return i == kGrams || i == kSender ? SOCK_DGRAM : i == kZeros ? SOCK_SEQPACKET : SOCK_STREAM; }
static bool listens(int i) { return type(i) != SOCK_DGRAM && i != kBound; }
static bool deleted(int i) { return i == kDeleted || i == kDeletedRelative; }
static bool abstract(int i) { return i == kZeros || i == kGiven || i == kSender; }
static const char* directory(int i) { return i == kElsewhere || i == kGrams ? "nest" : "."; }
static mode_t mode(int i) { return i == kDeep ? 0640 : i == kRelative ? 0777 : 0755; }

static void set_name(int i, const char* text, size_t size) {
  names[i].sun_family = AF_UNIX;
  memcpy(names[i].sun_path, text, size);
  lengths[i] = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);
}
static void bind_one(int i) {
  const int fd = MUST(socket(AF_UNIX, type(i), 0));
  MUST(dup3(fd, FD(i), O_CLOEXEC));
  close(fd);
  MUST(chdir(directory(i)));
  if (!abstract(i)) unlink(names[i].sun_path);
  umask(mode(i) == 0777 ? 0 : 022);
  MUST(bind(FD(i), (struct sockaddr*)&names[i], lengths[i]));
  if (mode(i) == 0640) MUST(chmod(names[i].sun_path, 0640));
  if (deleted(i)) MUST(unlink(names[i].sun_path));
  MUST(chdir(home));
  if (listens(i)) MUST(listen(FD(i), 5));
}
static unsigned waiting(void) { return 2 + victim_state % 2; }
static void refill(unsigned state) {
  (void)state;
  char rest[64];
  while (recv(FD(kGrams), rest, sizeof rest, MSG_DONTWAIT) >= 0) {
  }
  CHECK(chdir("nest") == 0, "chdir: %s", strerror(errno));
  for (unsigned at = 0; at < waiting(); ++at) {
    const int nobody = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK(sendto(at == 0 ? FD(kSender) : nobody, "abc", 3, MSG_DONTWAIT, (struct sockaddr*)&names[kGrams],
                 lengths[kGrams]) == 3,
          "sending: %s", strerror(errno));
    close(nobody);
  }
  CHECK(chdir(home) == 0, "chdir: %s", strerror(errno));
}
static void make(void) {
  const int probe = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  if (ioctl(probe, SIOCPROTOPRIVATE) < 0 && errno == EPERM)  // SIOCUNIXFILE: where a relative name counts from
    victim_skip("needs CAP_NET_ADMIN: to find names that count from another directory");
  close(probe);
  if (getcwd(home, sizeof home) == NULL) victim_die("getcwd");
  mkdir("nest", 0755);
  char path[sizeof names[0].sun_path], word[40];
  set_name(kRelative, "relative", 9);
  set_name(kDeep, "nest/deep", 10);
  set_name(kElsewhere, "elsewhere", 10);
  set_name(kDeletedRelative, "gone", 5);
  set_name(kBound, "bound", 6);
  set_name(kGrams, "grams", 6);
  snprintf(path, sizeof path, "%.90s/deleted", home);
  set_name(kDeleted, path, strlen(path) + 1);
  const int n = sprintf(word, "%cname%c%d", 0, 0, getpid());
  set_name(kZeros, word, (size_t)n);
  set_name(kSender, word, (size_t)n - 1);
  set_name(kGiven, word, 0);
  for (int i = 0; i < SOCKETS; ++i) bind_one(i);
  lengths[kGiven] = sizeof names[kGiven];
  MUST(getsockname(FD(kGiven), (struct sockaddr*)&names[kGiven], &lengths[kGiven]));
  const int fd = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
  MUST(dup2(fd, kConnected));
  close(fd);
  MUST(chdir("nest"));
  MUST(connect(kConnected, (struct sockaddr*)&names[kGrams], lengths[kGrams]));
  MUST(chdir(home));
  umask(022);
  refill(0);
}
static void check_connection(int i) {
  const int from = socket(AF_UNIX, type(i), 0);
  const int result = connect(from, (struct sockaddr*)&names[i], lengths[i]);
  if (deleted(i)) {
    CHECK(result == -1 && errno == ENOENT, "deleted name %d: connecting gives %d, %s", i, result, strerror(errno));
  } else {
    const int to = result == 0 ? accept(FD(i), NULL, NULL) : -1;
    char word[4] = "";
    CHECK(to >= 0, "socket %d: no connection: %s", i, strerror(errno));
    if (to >= 0)
      CHECK(write(from, "abc", 3) == 3 && read(to, word, 3) == 3 && strcmp(word, "abc") == 0, "the words differ");
    close(to);
  }
  close(from);
}
static void verify(void) {
  int open_ones[4 + SOCKETS] = {0, 1, 2, kConnected};
  size_t count = 4;
  char here[200] = "";
  CHECK(getcwd(here, sizeof here) != NULL && strcmp(here, home) == 0, "the working directory is %s", here);
  for (int i = 0; i < SOCKETS; ++i) {
    open_ones[count++] = FD(i);
    struct sockaddr_un found = {0};
    socklen_t length = sizeof found;
    if (getsockname(FD(i), (struct sockaddr*)&found, &length) != 0) {
      victim_fail("socket %d: %s", i, strerror(errno));
      continue;
    }
    CHECK(length == lengths[i] && memcmp(&found, &names[i], length) == 0, "socket %d has another name (%s)", i,
          found.sun_path);
    CHECK(chdir(directory(i)) == 0, "chdir: %s", strerror(errno));
    struct stat status;
    if (!abstract(i) && !deleted(i))
      CHECK(stat(names[i].sun_path, &status) == 0 && (status.st_mode & 07777) == mode(i), "mode of name %d is %o", i,
            (unsigned)status.st_mode);
    if (listens(i)) check_connection(i);
    CHECK(chdir(home) == 0, "chdir: %s", strerror(errno));
  }
  check_descriptors(open_ones, count);
  CHECK(send(kConnected, "def", 3, MSG_DONTWAIT) == 3, "the connected one does not reach the other: %s",
        strerror(errno));
  for (unsigned at = 0; at <= waiting(); ++at) {
    char word[8] = "";
    struct sockaddr_un from = {0};
    socklen_t size = sizeof from;
    CHECK(recvfrom(FD(kGrams), word, sizeof word, MSG_DONTWAIT, (struct sockaddr*)&from, &size) == 3 &&
              strcmp(word, at == waiting() ? "def" : "abc") == 0,
          "datagram %u: %s", at, strerror(errno));
    CHECK((size == lengths[kSender] && memcmp(&from, &names[kSender], size) == 0) == (at == 0), "sender of datagram %u",
          at);
  }
  refill(0);
}
static void wreck(unsigned round) {
  char rest[8];
  recv(FD(kGrams), rest, sizeof rest, MSG_DONTWAIT);
  CHECK(chdir(round % 2 == 0 ? "/" : "nest") == 0, "chdir: %s", strerror(errno));
  umask(077);
  if (round % 4 == 0) return;
  for (int i = 0; i < SOCKETS; ++i)
    if (round % 4 != 2 || i % 2 == (int)(round / 4 % 2)) close(FD(i));
  if (round % 4 == 3) {
    close(kConnected);
    CHECK(chdir(home) == 0, "chdir: %s", strerror(errno));
    for (int i = 0; i < SOCKETS; ++i) {
      if (abstract(i) || deleted(i)) continue;
      CHECK(chdir(directory(i)) == 0, "chdir: %s", strerror(errno));
      if (i % 2 == 0) chmod(names[i].sun_path, 0600);
      if (i % 2 == 1) unlink(names[i].sun_path);
      CHECK(chdir(home) == 0, "chdir: %s", strerror(errno));
    }
    // Names like those before, in another directory.
    CHECK(chdir("/tmp") == 0, "chdir: %s", strerror(errno));
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = refill});
}
