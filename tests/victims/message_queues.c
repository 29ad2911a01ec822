// Descriptors of POSIX message queues: flags, dup, one whose name is gone, closed and replaced since, a notification
// asked for since. What is in a queue stays, as what is in a file.
#include "victim.h"

#include <mqueue.h>
#include <sys/stat.h>

enum { kNamed, kUnlinked, kWriteOnly, QUEUES };
#define QUEUE(i) (200 + (i))
#define SECOND 210  // dup of kNamed

static char names[QUEUES][64];
static struct stat files[QUEUES];

static void make(void) {
  for (int i = 0; i < QUEUES; ++i) {
    snprintf(names[i], sizeof names[i], "/victim-%d-%d", getpid(), i);
    struct mq_attr attributes = {.mq_maxmsg = 4 + i, .mq_msgsize = 64};
    const int how = i == kWriteOnly ? O_WRONLY : O_RDWR | O_NONBLOCK;
    const mqd_t queue = mq_open(names[i], how | O_CREAT | O_EXCL, 0600, &attributes);
    if (queue < 0 && (errno == ENOSYS || errno == EMFILE || errno == ENOSPC)) victim_die("mq_open");
    MUST(dup3(MUST(queue), QUEUE(i), i == kWriteOnly ? O_CLOEXEC : 0));
    close(queue);
    MUST(fstat(QUEUE(i), &files[i]));
  }
  MUST(dup3(QUEUE(kNamed), SECOND, O_CLOEXEC));
  for (int i = 0; i < QUEUES; ++i) mq_unlink(names[i]);
}

static void verify(void) {
  for (int i = 0; i < QUEUES; ++i) {
    struct mq_attr now = {0};
    struct stat file = {0};
    CHECK(mq_getattr(QUEUE(i), &now) == 0, "queue %d: %s", i, strerror(errno));
    CHECK_EQUAL("longest queue", now.mq_maxmsg, 4 + i);
    CHECK_EQUAL("longest message", now.mq_msgsize, 64);
    CHECK_EQUAL("flags", now.mq_flags, i == kWriteOnly ? 0 : O_NONBLOCK);
    CHECK(fstat(QUEUE(i), &file) == 0 && file.st_ino == files[i].st_ino && file.st_dev == files[i].st_dev,
          "queue %d is another one", i);
    CHECK_EQUAL("close-on-exec", fcntl(QUEUE(i), F_GETFD), i == kWriteOnly ? FD_CLOEXEC : 0);
    // Nobody is told yet: only then one may ask.
    struct sigevent none = {.sigev_notify = SIGEV_NONE};
    CHECK(mq_notify(QUEUE(i), &none) == 0, "notification of queue %d: %s", i, strerror(errno));
    CHECK(mq_notify(QUEUE(i), NULL) == 0, "taking it back: %s", strerror(errno));
  }
  char got[64];
  while (mq_receive(SECOND, got, sizeof got, NULL) > 0) {
  }
  CHECK(mq_send(QUEUE(kNamed), "x", 1, 3) == 0, "mq_send: %s", strerror(errno));
  unsigned priority = 0;
  CHECK(mq_receive(SECOND, got, sizeof got, &priority) == 1 && got[0] == 'x' && priority == 3, "another message came");
  const int open_ones[] = {0, 1, 2, QUEUE(0), QUEUE(1), QUEUE(2), SECOND};
  check_descriptors(open_ones, sizeof open_ones / sizeof open_ones[0]);
}

static void wreck(unsigned round) {
  struct sigevent none = {.sigev_notify = SIGEV_NONE};
  mq_notify(QUEUE(kUnlinked), &none);
  mq_notify(QUEUE(kWriteOnly), &none);
  mq_send(QUEUE(kNamed), "since", 5, 0);  // stays, as long as it is not full
  mq_setattr(QUEUE(kNamed), &(struct mq_attr){.mq_flags = 0}, NULL);
  mq_setattr(QUEUE(kWriteOnly), &(struct mq_attr){.mq_flags = O_NONBLOCK}, NULL);
  if (round % 3 >= 1) {
    mq_close(QUEUE(kNamed));
    mq_close(QUEUE(kUnlinked));
    mq_close(SECOND);
  }
  if (round % 3 == 2) {
    mq_close(QUEUE(kWriteOnly));
    MUST(open("/dev/null", O_RDONLY));
    dup2(0, QUEUE(kUnlinked));
    const mqd_t other = mq_open(names[kNamed], O_RDWR | O_CREAT, 0600, NULL);
    dup2(other, QUEUE(kNamed));
    mq_unlink(names[kNamed]);
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck}); }
