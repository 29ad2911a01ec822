// inotify(7): watches with their numbers and masks; removed, added, changed since; events that nobody has read; the
// instance itself closed and replaced since.
#include "victim.h"

#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define WATCHER 250
#define EMPTY 251
#define COPY 252
#define SET 253

enum { kDirectory, kFile, kOnce, kSystem, WATCHES };
static const char* const paths[WATCHES] = {"watched", "watched/file", "watched/once", "/etc"};
static const uint32_t masks[2][WATCHES] = {
    {IN_CREATE | IN_DELETE | IN_EXCL_UNLINK, IN_MODIFY, IN_ATTRIB | IN_ONESHOT, IN_CREATE | IN_ONLYDIR},
    {IN_CREATE | IN_MOVED_TO, IN_CLOSE_WRITE | IN_MODIFY, IN_ALL_EVENTS, IN_DELETE_SELF}};
static int numbers[WATCHES];

static void touch(const char* path) {
  const int fd = MUST(open(path, O_RDWR | O_CREAT, 0600));
  MUST(write(fd, "x", 1));
  close(fd);
}
static void drain(int fd) {
  char events[8192];
  for (int unread = 0; ioctl(fd, FIONREAD, &unread) == 0 && unread != 0;)
    if (read(fd, events, sizeof events) < 0) break;
}
static void become(unsigned state) {
  for (int i = 0; i < WATCHES; ++i) {
    // Another mask in place, but for the flags, which only a new watch takes.
    if (i == kOnce) inotify_rm_watch(WATCHER, numbers[i]);
    numbers[i] = inotify_add_watch(WATCHER, paths[i], masks[state % 2][i]);
    if (numbers[i] < 0) victim_fail("inotify_add_watch: %s", strerror(errno));
  }
  drain(WATCHER);
}
static void take(int fd, int as) {
  MUST(dup3(fd, as, O_CLOEXEC));
  close(fd);
}
static void make(void) {
  mkdir("watched", 0700);
  touch("watched/file");
  touch("watched/once");
  take(MUST(inotify_init1(IN_NONBLOCK)), WATCHER);
  take(MUST(inotify_init1(0)), EMPTY);
  for (int i = 0; i < 40; ++i) inotify_rm_watch(WATCHER, MUST(inotify_add_watch(WATCHER, "/", IN_CREATE)));
  MUST(dup2(WATCHER, COPY));
  take(MUST(epoll_create1(0)), SET);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = WATCHER};
  MUST(epoll_ctl(SET, EPOLL_CTL_ADD, WATCHER, &event));
  become(0);
}
// The next event, waiting for nothing; its number, or -1.
static int event(uint32_t* mask) {
  static char events[65536];
  const ssize_t n = read(WATCHER, events, sizeof events);
  if (n < (ssize_t)sizeof(struct inotify_event)) return -1;
  struct inotify_event first;
  memcpy(&first, events, sizeof first);
  *mask = first.mask;
  return first.wd;
}
static void verify(void) {
  check_descriptors((int[]){0, 1, 2, WATCHER, EMPTY, COPY, SET}, 7);
  char path[64], text[8192], *rest = NULL;
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", WATCHER);
  read_text(path, text, sizeof text);
  int found = 0;
  for (char* line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
    unsigned number, mask;
    unsigned long inode, device;
    if (sscanf(line, "inotify wd:%x ino:%lx sdev:%lx mask:%x", &number, &inode, &device, &mask) != 4) continue;
    int i = 0;
    while (i < WATCHES && numbers[i] != (int)number) ++i;
    if (i == WATCHES) {
      victim_fail("a watch with number %u", number);
      continue;
    }
    struct stat status;
    CHECK(stat(paths[i], &status) == 0 && status.st_ino == inode, "watch %u is for another file", number);
    const uint32_t want = masks[victim_state % 2][i] & ~(uint32_t)IN_ONLYDIR;
    CHECK(mask == want, "watch %u has the mask %x, want %x", number, mask, want);
    ++found;
  }
  CHECK_EQUAL("number of watches", found, WATCHES);
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", EMPTY);
  read_text(path, text, sizeof text);
  CHECK(strstr(text, "inotify wd") == NULL, "the empty instance watches");
  CHECK((fcntl(WATCHER, F_GETFL) & O_NONBLOCK) != 0 && (fcntl(EMPTY, F_GETFL) & O_NONBLOCK) == 0, "the flags differ");
  int unread = -1;
  CHECK(ioctl(COPY, FIONREAD, &unread) == 0 && unread == 0, "%d bytes of events", unread);
  struct epoll_event got;
  CHECK(epoll_wait(SET, &got, 1, 0) == 0, "the set reports events");
  if (victim_state % 2 != 0 || (fcntl(WATCHER, F_GETFL) & O_NONBLOCK) == 0) return;
  uint32_t mask = 0;
  const int fd = open("watched/new", O_RDWR | O_CREAT, 0600);
  close(fd);
  CHECK(epoll_wait(SET, &got, 1, 0) == 1 && got.data.fd == WATCHER, "the set reports nothing");
  CHECK(event(&mask) == numbers[kDirectory] && mask == IN_CREATE, "a new file is not reported (%x)", mask);
  unlink("watched/new");
  CHECK(event(&mask) == numbers[kDirectory] && mask == IN_DELETE, "a file's end is not reported (%x)", mask);
  touch("watched/file");
  CHECK(event(&mask) == numbers[kFile] && mask == IN_MODIFY, "a change is not reported (%x)", mask);
  CHECK(event(&mask) == -1, "an event without a cause (%x)", mask);
}
static void wreck(unsigned round) {
  drain(WATCHER);
  MUST(inotify_add_watch(EMPTY, ".", IN_CREATE));
  MUST(inotify_add_watch(WATCHER, "/tmp", IN_OPEN | IN_CREATE));
  touch("watched/more");
  unlink("watched/more");
  touch("watched/file");
  switch (round % 6) {
    case 1:
      chmod("watched/once", 0600);  // fires, and is gone
      break;
    case 2:
      close(WATCHER);
      close(COPY);
      close(EMPTY);
      break;
    case 3:  // another set, with watches under the same numbers
      take(MUST(inotify_init1(0)), WATCHER);
      MUST(inotify_add_watch(WATCHER, "watched/file", IN_OPEN));
      close(SET);
      break;
    case 4:
      for (int i = 0; i < WATCHES; ++i) inotify_rm_watch(WATCHER, numbers[i]);
      become(victim_state);
      break;
    case 5:
      MUST(dup2(EMPTY, WATCHER));
      MUST(inotify_add_watch(COPY, "watched/file", IN_ATTRIB));
      fcntl(EMPTY, F_SETFL, O_NONBLOCK);
      break;
    default:
      MUST(inotify_init1(0));
  }
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
