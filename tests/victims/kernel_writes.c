// Pages that the kernel writes for the task: read(2), readv(2), recv(2), getrandom(2), and a reader's buffer in another
// thread. A tracker must see them.
#include "victim.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define SIZE (64 * PAGE)
#define BUFFERS 5
static unsigned char* buffers[BUFFERS];

static void set(unsigned state) {
  for (int i = 0; i < BUFFERS; ++i) fill(buffers[i], SIZE, 850 + (uint64_t)i + 100 * state);
}
static void make(void) {
  for (int i = 0; i < BUFFERS; ++i)
    buffers[i] = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  set(0);
}
static void verify(void) {
  for (int i = 0; i < BUFFERS; ++i)
    CHECK(filled(buffers[i], SIZE, 850 + (uint64_t)i + 100 * victim_state), "buffer %d differs", i);
}
static void wreck(unsigned round) {
  (void)round;
  int fd = MUST(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  MUST(pread(fd, buffers[0], SIZE, 0));
  struct iovec parts[2] = {{buffers[1] + 100, 5000}, {buffers[1] + 10 * PAGE, 3000}};
  MUST(readv(fd, parts, 2));
  close(fd);
  int pair[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
  MUST(send(pair[0], buffers[0], 20000, 0));
  MUST(recv(pair[1], buffers[2] + 7, 20000, MSG_WAITALL));
  close(pair[0]);
  close(pair[1]);
  MUST(getrandom(buffers[3], 5 * PAGE, 0));
  fd = MUST(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  MUST(read(fd, buffers[4], SIZE));
  close(fd);
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set}); }
