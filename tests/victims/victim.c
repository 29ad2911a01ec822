#include "victim.h"

#include <dirent.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <time.h>

unsigned victim_state;
static char failures[4096];
static unsigned interruptions;
static unsigned char own_pages[16 * PAGE] __attribute__((aligned(4096)));
static char text[1 << 20];

static void say(const char* line) {
  const size_t length = strlen(line);
  for (size_t done = 0; done < length;) {
    const ssize_t n = write(1, line + done, length - done);
    if (n > 0) done += (size_t)n;
    if (n < 0 && errno != EINTR) _exit(98);
  }
}

static void say_failures(const char* otherwise) {
  if (failures[0] == 0) {
    say(otherwise);
    say("\n");
    return;
  }
  say("FAIL: ");
  say(failures);
  say("\n");
  failures[0] = 0;
}

void victim_fail(const char* format, ...) {
  const size_t used = strlen(failures);
  if (used + 200 > sizeof failures) return;
  va_list arguments;
  va_start(arguments, format);
  size_t at = used;
  if (used != 0) at += (size_t)sprintf(failures + used, "; ");
  vsnprintf(failures + at, sizeof failures - at, format, arguments);
  va_end(arguments);
}

void victim_skip(const char* reason) {
  say("SKIP: ");
  say(reason);
  say("\n");
  _exit(0);
}

void victim_die(const char* what) {
  fprintf(stderr, "victim: %s: %s\n", what, strerror(errno));
  _exit(97);
}

static uint64_t own_seed(void) { return 0x5eed0000u + victim_state; }

static void verify(const struct victim* v, const char* argument) {
  if (*argument != 0) CHECK_EQUAL("state number", victim_state, strtoul(argument, NULL, 10));
  CHECK(filled(own_pages, sizeof own_pages, own_seed()), "the frame's own pages differ");
  if (!v->interrupted) CHECK_EQUAL("interruptions of read(2)", interruptions, 0);
  v->verify();
  say_failures("PASS");
}

static void wreck(const struct victim* v, const char* argument) {
  v->wreck((unsigned)strtoul(argument, NULL, 10));
  fill(own_pages, sizeof own_pages, 0xbad);
  victim_state = 999;
  say_failures("wrecked");
}

static void become(const struct victim* v, const char* argument) {
  const unsigned state = (unsigned)strtoul(argument, NULL, 10);
  victim_state = state;
  fill(own_pages, sizeof own_pages, own_seed());
  if (v->become != NULL) v->become(state);
  char line[40];
  snprintf(line, sizeof line, "became %u", state);
  say_failures(line);
}

int victim_loop(const struct victim* v, const char* say_first) {
  say(say_first);
  for (;;) {
    char line[256];
    size_t length = 0;
    while (length == 0 || line[length - 1] != '\n') {
      if (length == sizeof line) return 96;
      const long n = read(0, line + length, sizeof line - length);
      if (n == 0) return 0;
      if (n < 0 && errno != EINTR) return 95;
      if (n < 0) ++interruptions;
      if (n > 0) length += (size_t)n;
    }
    line[length - 1] = 0;
    char* argument = strchr(line, ' ');
    if (argument != NULL) *argument++ = 0;
    if (argument == NULL) argument = line + strlen(line);
    if (strcmp(line, "verify") == 0)
      verify(v, argument);
    else if (strcmp(line, "wreck") == 0)
      wreck(v, argument);
    else if (strcmp(line, "become") == 0)
      become(v, argument);
    else if (strcmp(line, "end") == 0)
      return 0;
    else
      say("FAIL: unknown word\n");
  }
}

void victim_prepare(void) { fill(own_pages, sizeof own_pages, own_seed()); }

int victim_main(const struct victim* v) {
  victim_prepare();
  v->make();
  _exit(victim_loop(v, "ready\n"));
}

uint64_t pattern_word(uint64_t seed, uint64_t index) {
  uint64_t x = seed * 0x9e3779b97f4a7c15u + index * 0xd1342543de82ef95u + 0x632be59bd9b4e019u;
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

void fill(void* to, size_t bytes, uint64_t seed) {
  for (size_t at = 0; at < bytes; at += 8) {
    const uint64_t word = pattern_word(seed, at / 8);
    memcpy((char*)to + at, &word, bytes - at < 8 ? bytes - at : 8);
  }
}

bool filled(const void* from, size_t bytes, uint64_t seed) {
  for (size_t at = 0; at < bytes; at += 8) {
    const uint64_t word = pattern_word(seed, at / 8);
    if (memcmp((const char*)from + at, &word, bytes - at < 8 ? bytes - at : 8) != 0) return false;
  }
  return true;
}

size_t read_text(const char* path, char* to, size_t room) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  size_t length = 0;
  if (fd >= 0) {
    while (length + 1 < room) {
      const ssize_t n = read(fd, to + length, room - 1 - length);
      if (n <= 0) break;
      length += (size_t)n;
    }
    close(fd);
  }
  to[length] = 0;
  return length;
}

bool status_field(pid_t tid, const char* name, char* to, size_t room) {
  char path[64], buffer[8192];
  snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
  read_text(path, buffer, sizeof buffer);
  const size_t width = strlen(name);
  for (char* line = strtok(buffer, "\n"); line != NULL; line = strtok(NULL, "\n")) {
    if (strncmp(line, name, width) != 0 || line[width] != ':') continue;
    snprintf(to, room, "%s", line + width + 1 + strspn(line + width + 1, " \t"));
    return true;
  }
  return false;
}

uint64_t status_hex(pid_t tid, const char* name) {
  char value[200];
  return status_field(tid, name, value, sizeof value) ? strtoull(value, NULL, 16) : UINT64_MAX;
}

// Walks `path` (maps or smaps). Calls `look` for each mapping that touches the range, with its VmFlags line (smaps) or
// "". Returns how many bytes of the range are covered by mappings for which it says yes.
static size_t covered(const char* path, const void* at, size_t bytes,
                      bool (*look)(const char* permissions, const char* flags, const void*), const void* argument) {
  const uintptr_t from = (uintptr_t)at, to = from + bytes;
  read_text(path, text, sizeof text);
  size_t good = 0;
  uintptr_t start = 0, end = 0;
  char permissions[5] = "";
  const bool smaps = strstr(path, "smaps") != NULL;
  char* rest = NULL;
  for (char* line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
    unsigned long a, b;
    char p[5];
    const bool head = line[0] >= '0' && line[0] <= '9'
                          ? sscanf(line, "%lx-%lx %4s", &a, &b, p) == 3
                          : line[0] >= 'a' && line[0] <= 'f' && sscanf(line, "%lx-%lx %4s", &a, &b, p) == 3;
    if (head) {
      start = a;
      end = b;
      memcpy(permissions, p, 5);
    }
    const bool complete = smaps ? strncmp(line, "VmFlags:", 8) == 0 : head;
    if (!complete || end <= from || start >= to) continue;
    if (!look(permissions, smaps ? line + 8 : "", argument)) continue;
    good += (end < to ? end : to) - (start > from ? start : from);
  }
  return good;
}

static bool has_permissions(const char* permissions, const char* flags, const void* want) {
  (void)flags;
  return strcmp(permissions, want) == 0;
}
static bool any(const char* permissions, const char* flags, const void* want) {
  (void)permissions, (void)flags, (void)want;
  return true;
}
static bool has_flag(const char* permissions, const char* flags, const void* want) {
  (void)permissions;
  for (const char* f = flags; *f != 0; ++f)
    if (f[0] != ' ' && strncmp(f, want, 2) == 0)
      return true;
    else if (f[0] != ' ')
      ++f;
  return false;
}
static bool lacks_flag(const char* permissions, const char* flags, const void* want) {
  return !has_flag(permissions, flags, want);
}

bool mapped_as(const void* at, size_t bytes, const char* permissions) {
  return covered("/proc/self/maps", at, bytes, has_permissions, permissions) == bytes;
}
bool unmapped(const void* at, size_t bytes) { return covered("/proc/self/maps", at, bytes, any, NULL) == 0; }
bool flagged(const void* at, size_t bytes, const char* flag) {
  return covered("/proc/self/smaps", at, bytes, has_flag, flag) == bytes;
}
bool not_flagged(const void* at, size_t bytes, const char* flag) {
  return covered("/proc/self/smaps", at, bytes, lacks_flag, flag) == bytes;
}

void check_descriptors(const int* fds, size_t count) {
  bool wanted[1024] = {false};
  for (size_t i = 0; i < count; ++i) {
    wanted[fds[i]] = true;
    CHECK(fcntl(fds[i], F_GETFD) >= 0, "descriptor %d is closed", fds[i]);
  }
  DIR* directory = opendir("/proc/self/fd");
  if (directory == NULL) {
    victim_fail("/proc/self/fd cannot be read");
    return;
  }
  for (struct dirent* entry; (entry = readdir(directory)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    const int fd = atoi(entry->d_name);
    if (fd == dirfd(directory) || (fd < 1024 && wanted[fd])) continue;
    char path[300], link[200] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
    if (readlink(path, link, sizeof link - 1) < 0) link[0] = 0;
    victim_fail("descriptor %d (%s) is open", fd, link);
  }
  closedir(directory);
}

static int walk_threads(pid_t wanted) {
  DIR* directory = opendir("/proc/self/task");
  if (directory == NULL) return -1;
  int found = 0;
  for (struct dirent* entry; (entry = readdir(directory)) != NULL;)
    if (entry->d_name[0] != '.' && (wanted == 0 || atoi(entry->d_name) == wanted)) ++found;
  closedir(directory);
  return found;
}
int count_threads(void) { return walk_threads(0); }
bool thread_exists(pid_t tid) { return walk_threads(tid) == 1; }

long blocked_in(pid_t tid) {
  char path[64], line[256];
  snprintf(path, sizeof path, "/proc/self/task/%d/syscall", tid);
  for (const double until = now() + 10; now() < until; sched_yield()) {
    if (read_text(path, line, sizeof line) == 0) return -1;
    if (line[0] >= '0' && line[0] <= '9') return atol(line);
  }
  return -1;
}

pid_t my_tid(void) { return (pid_t)syscall(SYS_gettid); }

double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void futex_wait(atomic_int* word, int value) {
  syscall(SYS_futex, word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}
void futex_wake(atomic_int* word) { syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0); }

static void* work(void* argument) {
  struct worker* w = argument;
  unsigned char on_stack[3000];
  fill(on_stack, sizeof on_stack, w->seed);
  w->tid = my_tid();
  atomic_store(&w->answered, 1);
  futex_wake(&w->answered);
  for (;;) {
    int request;
    while ((request = atomic_load(&w->request)) == 0) futex_wait(&w->request, 0);
    if (!filled(on_stack, sizeof on_stack, w->seed)) atomic_store(&w->stack_damaged, 1);
    if (my_tid() != w->tid) atomic_store(&w->stack_damaged, 2);
    if (request == 2) return (void*)(uintptr_t)w->seed;
    if (w->run != NULL) w->run(w, w->argument);
    atomic_store(&w->request, 0);
    atomic_store(&w->answered, 1);
    futex_wake(&w->answered);
  }
}

static void wait_for_answer(struct worker* w) {
  while (atomic_load(&w->answered) == 0) futex_wait(&w->answered, 0);
}

void worker_start(struct worker* w, uint64_t seed) {
  memset(w, 0, sizeof *w);
  w->seed = seed;
  if ((errno = pthread_create(&w->thread, NULL, work, w)) != 0) victim_die("pthread_create");
  wait_for_answer(w);
}

void worker_call(struct worker* w, void (*run)(struct worker*, void*), void* argument) {
  if (syscall(SYS_tgkill, getpid(), w->tid, 0) != 0) {
    victim_fail("thread %d is gone", w->tid);
    return;
  }
  w->run = run;
  w->argument = argument;
  atomic_store(&w->answered, 0);
  atomic_store(&w->request, 1);
  futex_wake(&w->request);
  wait_for_answer(w);
}

void worker_end(struct worker* w) {
  atomic_store(&w->request, 2);
  futex_wake(&w->request);
  void* result = NULL;
  const int error = pthread_join(w->thread, &result);
  CHECK(error == 0, "pthread_join: %s", strerror(error));
  CHECK((uintptr_t)result == (uintptr_t)w->seed, "pthread_join gave another result");
}

void worker_check(struct worker* w, const char* name) {
  CHECK(thread_exists(w->tid), "thread %s (%d) is gone", name, w->tid);
  if (!thread_exists(w->tid)) return;
  worker_call(w, NULL, NULL);
  CHECK_EQUAL("damage of a thread's stack", atomic_load(&w->stack_damaged), 0);
}
