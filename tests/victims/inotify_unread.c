// inotify(7): events that nobody has read. They wait in the same order, with the same numbers and names, read since or
// not, and with others behind them or not; the two halves of a rename belong together.
#include "victim.h"

#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define WATCHER 250
#define COPY 251
#define SET 252

enum { kDirectory, kFile, kOther, kGone, WATCHES };
static const char* const paths[WATCHES] = {"watched", "watched/file", "other", "gone"};
static int numbers[WATCHES];

#define MOST 64
struct told {
  int number;
  uint32_t mask;
  bool joined;  // to the one before it, by its cookie
  char name[32];
};
static struct told expected[MOST];
static int count;

static void touch(const char* path) {
  const int fd = MUST(open(path, O_RDWR | O_CREAT, 0600));
  MUST(write(fd, "x", 1));
  close(fd);
}
static void cause(void) {
  touch("watched/new");
  mkdir("watched/directory", 0700);
  MUST(rename("watched/new", "other/newer"));
  MUST(rename("other/newer", "other/newest"));
  MUST(unlink("other/newest"));
  MUST(rmdir("watched/directory"));
  if (victim_state % 2 == 0) touch("watched/file");
  chmod("watched", victim_state % 2 == 0 ? 0700 : 0755);
  close(MUST(open("other", O_RDONLY | O_DIRECTORY)));
  inotify_rm_watch(WATCHER, numbers[kGone]);
}
// Takes what is there.
static int take_events(struct told* to) {
  static char room[65536] __attribute__((aligned(8)));
  int found = 0, unread = 0;
  uint32_t cookie = 0;
  while (ioctl(WATCHER, FIONREAD, &unread) == 0 && unread != 0) {
    const ssize_t got = read(WATCHER, room, sizeof room);
    for (ssize_t at = 0; at < got && found < MOST; ++found) {
      struct inotify_event event;
      memcpy(&event, room + at, sizeof event);
      memset(&to[found], 0, sizeof to[found]);
      to[found].number = event.wd;
      to[found].mask = event.mask;
      to[found].joined = event.cookie != 0 && event.cookie == cookie;
      if (event.len != 0) snprintf(to[found].name, sizeof to[found].name, "%s", room + at + sizeof event);
      cookie = event.cookie;
      at += (ssize_t)(sizeof event + event.len);
    }
  }
  return found;
}
static void watch(void) {
  const uint32_t all = IN_ALL_EVENTS & ~(uint32_t)(IN_DELETE_SELF | IN_MOVE_SELF);
  for (int i = 0; i < WATCHES; ++i) numbers[i] = MUST(inotify_add_watch(WATCHER, paths[i], all));
}
// Reads them once to know them, and causes them again.
static void renew(void) {
  take_events(expected);
  numbers[kGone] = MUST(inotify_add_watch(WATCHER, paths[kGone], IN_ATTRIB));
  take_events(expected);
  cause();
  count = take_events(expected);
  numbers[kGone] = MUST(inotify_add_watch(WATCHER, paths[kGone], IN_ATTRIB));
  for (int i = 0; i < count; ++i)
    if (expected[i].mask == IN_IGNORED) expected[i].number = numbers[kGone];
  cause();
}
static void make(void) {
  mkdir("watched", 0700);
  mkdir("other", 0700);
  touch("gone");
  touch("watched/file");
  const int fd = MUST(inotify_init1(IN_NONBLOCK));
  MUST(dup3(fd, WATCHER, O_CLOEXEC));
  close(fd);
  MUST(dup2(WATCHER, COPY));
  const int set = MUST(epoll_create1(0));
  MUST(dup3(set, SET, O_CLOEXEC));
  close(set);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = WATCHER};
  MUST(epoll_ctl(SET, EPOLL_CTL_ADD, WATCHER, &event));
  watch();
  renew();
}
static void become(unsigned state) {
  (void)state;
  renew();
}
static void verify(void) {
  check_descriptors((int[]){0, 1, 2, WATCHER, COPY, SET}, 6);
  struct epoll_event ready;
  CHECK(epoll_wait(SET, &ready, 1, 0) == 1 && ready.data.fd == WATCHER, "the set reports nothing");
  static struct told got[MOST];
  const int found = take_events(got);
  CHECK_EQUAL("unread events", found, count);
  for (int i = 0; i < found && i < count; ++i) {
    CHECK(got[i].number == expected[i].number && got[i].mask == expected[i].mask &&
              got[i].joined == expected[i].joined && strcmp(got[i].name, expected[i].name) == 0,
          "event %d is %d %x %d '%s', want %d %x %d '%s'", i, got[i].number, got[i].mask, got[i].joined, got[i].name,
          expected[i].number, expected[i].mask, expected[i].joined, expected[i].name);
  }
  // The watches are there.
  touch("watched/file");
  CHECK(take_events(got) != 0 && got[0].number == numbers[kDirectory], "a watch does not work");
  renew();
}
static void wreck(unsigned round) {
  static struct told got[MOST];
  switch (round % 5) {
    case 0:
      take_events(got);
      break;
    case 1:  // some were read, others came
      MUST(read(WATCHER, got, 64));
      touch("watched/file");
      break;
    case 2:
      close(WATCHER);
      close(COPY);
      break;
    case 3:
      touch("watched/more");
      unlink("watched/more");
      break;
    default:
      for (int i = 0; i < kGone; ++i) inotify_rm_watch(WATCHER, numbers[i]);
      inotify_add_watch(WATCHER, "watched", IN_OPEN);
      close(SET);
  }
  MUST(inotify_init1(0));
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
