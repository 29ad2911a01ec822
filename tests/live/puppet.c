// A task that does what it is told (puppet.h). It tells where its order lies on descriptor 3, closes that, and sleeps
// between two orders; SIGUSR2 wakes it.
#include "live/puppet.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { kPage = 4096 };

static volatile struct PuppetOrder order;
static volatile int64_t pages[kPuppetPages][kPage / sizeof(int64_t)];

static int64_t carry_out(void) {
  if (order.number == kPuppetBump) return ++pages[order.arguments[0] % kPuppetPages][0];
  const long result = syscall(order.number, order.arguments[0], order.arguments[1], order.arguments[2],
                              order.arguments[3], order.arguments[4], order.arguments[5]);
  return result < 0 ? -errno : result;
}

int main(void) {
  sigset_t wake;
  sigemptyset(&wake);
  sigaddset(&wake, SIGUSR2);
  sigprocmask(SIG_BLOCK, &wake, NULL);
  const volatile void* const where = &order;
  if (write(3, &where, sizeof where) != sizeof where) return 1;
  close(3);
  for (;;) {
    sigwaitinfo(&wake, NULL);
    if (!order.todo) continue;
    order.result = carry_out();
    order.todo = 0;
  }
}
