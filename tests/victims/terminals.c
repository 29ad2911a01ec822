// Pseudo-terminals whose both ends are the task's own: modes, window size, packet mode, locks, what is written at
// either end, the slave closed since; and a controlling terminal with the task in its foreground.
#include "victim.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>

enum { kPlain, kPackets, kLocked, kControlling, PTYS };
#define MASTER(i) (200 + 2 * (i))
#define SLAVE(i) (201 + 2 * (i))
#define SECOND 250   // of kPlain's slave: an open file of its own
#define BY_NAME 251  // kControlling as /dev/tty
static bool has_slave(int i) { return i != kLocked; }

static char names[PTYS][64];
static struct termios modes[PTYS];
static atomic_int resized;  // SIGWINCHs taken
static int resized_before;

static struct winsize window(int i) {
  return (struct winsize){.ws_row = (unsigned short)(20 + i + 7 * (int)(victim_state % 5)),
                          .ws_col = (unsigned short)(80 + i),
                          .ws_xpixel = 5};
}
static void on_resize(int signal) {
  (void)signal;
  atomic_fetch_add(&resized, 1);
}

static void open_slave(int i, int as, int flags) {
  const int fd = MUST(open(names[i], O_RDWR | O_NOCTTY | O_CLOEXEC | flags));
  MUST(dup3(fd, as, O_CLOEXEC));
  close(fd);
}
// What state number victim_state has.
static void set(int i) {
  struct termios wanted;
  MUST(tcgetattr(MASTER(i), &wanted));
  const bool raw = i == kPackets || victim_state % 2 == 1;
  wanted.c_lflag = raw ? NOFLSH : ICANON | IEXTEN | NOFLSH;
  wanted.c_iflag = ICRNL | IXON;
  wanted.c_oflag = raw ? 0 : OPOST | ONLCR;
  wanted.c_cc[VMIN] = (cc_t)(1 + victim_state % 9);
  wanted.c_cc[VTIME] = 0;
  wanted.c_cc[VERASE] = (cc_t)(8 + i);
  MUST(tcsetattr(MASTER(i), TCSANOW, &wanted));
  MUST(tcgetattr(MASTER(i), &modes[i]));
  const struct winsize size = window(i);
  MUST(ioctl(MASTER(i), TIOCSWINSZ, &size));
}
static void set_all(void) {
  for (int i = 0; i < PTYS; ++i)
    if (has_slave(i)) set(i);
  MUST(ioctl(MASTER(kPackets), TIOCPKT, &(int){0}));
  MUST(ioctl(MASTER(kPackets), TIOCPKT, &(int){1}));
  resized_before = atomic_load(&resized);
}
static void make(void) {
  for (int i = 0; i < PTYS; ++i) {
    const int fd = MUST(open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | (i == kPlain ? O_NONBLOCK : 0)));
    MUST(dup3(fd, MASTER(i), O_CLOEXEC));
    close(fd);
    MUST(ptsname_r(MASTER(i), names[i], sizeof names[i]) == 0 ? 0 : -1);
    if (!has_slave(i)) continue;
    MUST(unlockpt(MASTER(i)));
    open_slave(i, SLAVE(i), 0);
  }
  open_slave(kPlain, SECOND, O_NONBLOCK);
  MUST(ioctl(SLAVE(kPackets), TIOCEXCL));
  if (getsid(0) != getpid()) MUST(setsid());
  MUST(ioctl(SLAVE(kControlling), TIOCSCTTY, 0));
  MUST(dup3(MUST(open("/dev/tty", O_RDWR | O_CLOEXEC)), BY_NAME, O_CLOEXEC));
  struct sigaction action = {.sa_handler = on_resize, .sa_flags = SA_RESTART};
  MUST(sigaction(SIGWINCH, &action, NULL));
  for (int fd = 3; fd < 200; ++fd) close(fd);
  set_all();
}
static void become(unsigned state) {
  (void)state;
  set_all();
}

static int unread(int fd) {
  int count = -1;
  struct pollfd one = {.fd = fd, .events = POLLIN};
  poll(&one, 1, 0);  // brings what is under way
  ioctl(fd, FIONREAD, &count);
  return count;
}
// What is written at one end comes out at the other, and nothing before it.
static void pass(const char* what, int from, int to, const char* text, const char* comes) {
  char got[64] = "";
  const size_t length = strlen(text), want = strlen(comes + 1) + 1;
  CHECK(write(from, text, length) == (ssize_t)length, "%s: writing: %s", what, strerror(errno));
  size_t have = 0;
  for (struct pollfd one = {.fd = to, .events = POLLIN}; have < want && poll(&one, 1, 10000) == 1;) {
    const ssize_t n = read(to, got + have, sizeof got - have);
    if (n <= 0) break;
    have += (size_t)n;
  }
  CHECK(have == want && memcmp(got, comes, want) == 0, "%s: %zu bytes came: \"%s\" (%d)", what, have, got, got[0]);
}
static int asked(int fd, unsigned long request) {
  int value = -1;
  ioctl(fd, request, &value);
  return value;
}
static void verify(void) {
  const bool lines = victim_state % 2 == 0;
  for (int i = 0; i < PTYS; ++i) {
    char name[64] = "";
    ptsname_r(MASTER(i), name, sizeof name);
    CHECK(strcmp(name, names[i]) == 0, "terminal %d is %s, want %s", i, name, names[i]);
    CHECK_EQUAL("lock", asked(MASTER(i), TIOCGPTLCK), i == kLocked);
    CHECK_EQUAL("packet mode", asked(MASTER(i), TIOCGPKT), i == kPackets);
    if (!has_slave(i)) continue;
    struct termios now;
    memset(&now, 0, sizeof now);
    CHECK(tcgetattr(SLAVE(i), &now) == 0 && memcmp(&now, &modes[i], sizeof now) == 0, "modes of terminal %d differ", i);
    CHECK_EQUAL("erase character", now.c_cc[VERASE], 8 + i);
    CHECK_EQUAL("minimum", now.c_cc[VMIN], 1 + victim_state % 9);
    struct winsize size = {0};
    const struct winsize wanted = window(i);
    ioctl(SLAVE(i), TIOCGWINSZ, &size);
    CHECK(memcmp(&size, &wanted, sizeof size) == 0, "window of terminal %d is %dx%d", i, size.ws_col, size.ws_row);
    CHECK_EQUAL("exclusive mode", asked(SLAVE(i), TIOCGEXCL), i == kPackets);
    CHECK_EQUAL("unread bytes at the master", unread(MASTER(i)), 0);
    CHECK_EQUAL("unread bytes at the slave", unread(SLAVE(i)), 0);
    struct stat opened, named;
    CHECK(fstat(SLAVE(i), &opened) == 0 && stat(names[i], &named) == 0 && opened.st_rdev == named.st_rdev,
          "slave %d is another file", i);
  }
  CHECK_EQUAL("flags of the master", fcntl(MASTER(kPlain), F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR | O_NONBLOCK);
  CHECK_EQUAL("flags of the slave", fcntl(SLAVE(kPlain), F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR);
  CHECK_EQUAL("flags of the second one", fcntl(SECOND, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR | O_NONBLOCK);
  CHECK_EQUAL("group in the foreground", tcgetpgrp(BY_NAME), getpgrp());
  CHECK_EQUAL("session of the controlling terminal", tcgetsid(SLAVE(kControlling)), getsid(0));
  CHECK_EQUAL("SIGWINCHs", atomic_load(&resized), resized_before);

  pass("plain, to the master", SECOND, MASTER(kPlain), "out\n", lines ? "out\r\n" : "out\n");
  pass("plain, to the slave", MASTER(kPlain), SLAVE(kPlain), "in\r", "in\n");
  pass("packets, to the master", SLAVE(kPackets), MASTER(kPackets), "out", "\0out");
  pass("controlling, to the slave", MASTER(kControlling), BY_NAME, "typed\r", "typed\n");

  const int open_ones[] = {0,        1,         2,         MASTER(0), SLAVE(0), MASTER(1),
                           SLAVE(1), MASTER(2), MASTER(3), SLAVE(3),  SECOND,   BY_NAME};
  check_descriptors(open_ones, sizeof open_ones / sizeof open_ones[0]);
}

static void wreck(unsigned round) {
  const struct winsize size = {.ws_row = 3, .ws_col = (unsigned short)(round + 1)};
  for (int i = 0; i < PTYS; ++i) {
    if (!has_slave(i)) continue;
    struct termios now;
    CHECK(tcgetattr(SLAVE(i), &now) == 0, "tcgetattr: %s", strerror(errno));
    now.c_lflag ^= ICANON;
    now.c_iflag ^= IXON;
    now.c_oflag ^= OPOST;
    now.c_cc[VERASE] = 'x';
    now.c_cc[VMIN] = 77;
    if (round % 4 != 3) CHECK(tcsetattr(SLAVE(i), TCSANOW, &now) == 0, "tcsetattr: %s", strerror(errno));
    if (round % 3 != 2) CHECK(ioctl(SLAVE(i), TIOCSWINSZ, &size) == 0, "TIOCSWINSZ: %s", strerror(errno));
    CHECK(write(MASTER(i), "typed\nand mo", 12) == 12, "write: %s", strerror(errno));
    CHECK(write(SLAVE(i), "said", 4) == 4, "write: %s", strerror(errno));
  }
  ioctl(MASTER(kLocked), TIOCSPTLCK, &(int){0});
  if (round % 2 == 0) {
    ioctl(MASTER(kPackets), TIOCPKT, &(int){0});
    ioctl(MASTER(kPlain), TIOCPKT, &(int){1});
    ioctl(SLAVE(kPackets), TIOCNXCL);
  } else {
    tcflush(SLAVE(kPackets), TCIOFLUSH);  // a status byte for the master
  }
  fcntl(MASTER(kPlain), F_SETFL, 0);
  fcntl(SLAVE(kPlain), F_SETFL, O_NONBLOCK);
  if (round % 3 >= 1) {
    close(SLAVE(kPlain));
    close(SECOND);
    close(BY_NAME);
  }
  if (round % 3 == 2) {
    open("/dev/null", O_RDONLY);
    dup2(0, SLAVE(kPlain));
    close(SLAVE(kControlling));
    const int other = posix_openpt(O_RDWR | O_NOCTTY);
    dup2(other, BY_NAME);
    if (round % 2 == 0) open_slave(kLocked, SLAVE(kLocked), 0);
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
