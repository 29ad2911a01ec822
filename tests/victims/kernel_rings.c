// What a snapshot cannot contain, and what may not come to be between it and a rollback: memory shared with the kernel
// and the like. `become N` makes the Nth kind before a snapshot, `wreck N` after it.
#include "victim.h"

#include <linux/aio_abi.h>
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/shm.h>

static unsigned char data[16 * PAGE];
static void* segment;

static void make(void) {
  fill(data, sizeof data, 1800);
  const int id = MUST(shmget(IPC_PRIVATE, 4 * PAGE, 0600));
  segment = shmat(id, NULL, 0);
  shmctl(id, IPC_RMID, NULL);
}
static void verify(void) { CHECK(filled(data, sizeof data, 1800), "data differ"); }

static void make_kind(unsigned kind) {
  switch (kind) {
    case 0: {
      aio_context_t context = 0;
      MUST(syscall(SYS_io_setup, 4, &context));
      break;
    }
    case 1: {
      char name[64];
      snprintf(name, sizeof name, "/victim-%d", getpid());
      const mqd_t queue = MUST(mq_open(name, O_CREAT | O_RDWR, 0600, NULL));
      mq_unlink(name);
      MUST(mq_notify(queue, &(struct sigevent){.sigev_notify = SIGEV_NONE}));
      break;
    }
    case 2:
      MUST(shmdt(segment));
      break;
    case 3: {
      unsigned parameters[30] = {0};  // struct io_uring_params
      const long ring = syscall(425 /* io_uring_setup */, 4, parameters);
      if (ring < 0) victim_fail("no io_uring");
      break;
    }
    default:
      break;
  }
}
static void become(unsigned kind) {
  make_kind(kind);
  victim_state = 0;  // a kind is no state
  victim_prepare();
}
static void wreck(unsigned kind) {
  fill(data, sizeof data, 1);
  make_kind(kind);
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
