// What a task can never take back, and kinds of descriptors that are not handled: rollback or snapshot must refuse them
// by name and leave the task going on. `wreck N` does the Nth thing, `become N` opens the Nth kind of file.
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "victim.h"

static unsigned char data[16 * PAGE];
static pthread_t leader;
static atomic_int leader_may_end;
static char program[4096];

static void make(void) {
  fill(data, sizeof data, 1800);
  MUST(readlink("/proc/self/exe", program, sizeof program - 1));
}
static void verify(void) { CHECK(filled(data, sizeof data, 1800), "data differ"); }

static void forbid_nothing(void) {
  struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  struct sock_fprog filter = {1, &allow};
  if (geteuid() != 0) MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter));
}
static void wreck(unsigned what) {
  fill(data, sizeof data, 1);
  struct rlimit limit;
  switch (what) {
    case 0:
      MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
      break;
    case 1:
      forbid_nothing();
      break;
    case 2:
      getrlimit(RLIMIT_NOFILE, &limit);
      --limit.rlim_max;
      if (limit.rlim_cur > limit.rlim_max) limit.rlim_cur = limit.rlim_max;
      MUST(setrlimit(RLIMIT_NOFILE, &limit));
      break;
    case 3:
      atomic_store(&leader_may_end, 1);
      futex_wake(&leader_may_end);
      char state[64] = "";
      while (status_field(getpid(), "State", state, sizeof state) && state[0] != 'Z') sched_yield();
      break;
    case 4:
      MUST(prctl(PR_CAPBSET_DROP, 1, 0, 0, 0));
      break;
    case 5:
      execl(program, program, NULL);
      break;
    default:
      break;
  }
}
static void become(unsigned kind) {
  switch (kind) {
    case 0:
      MUST(syscall(SYS_userfaultfd, 1));  // UFFD_USER_MODE_ONLY
      break;
    case 1: {  // one half of a rename was read
      const int watcher = MUST(inotify_init1(0));
      MUST(inotify_add_watch(watcher, ".", IN_MOVED_FROM | IN_MOVED_TO));
      close(MUST(open("before", O_RDWR | O_CREAT, 0600)));
      MUST(rename("before", "after"));
      char half[sizeof(struct inotify_event) + 16];
      MUST(read(watcher, half, sizeof half));
      break;
    }
    case 2:
      MUST(open("/proc/self/ns/net", O_RDONLY));
      break;
    case 3: {  // half a datagram
      struct sockaddr_in self = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
      socklen_t size = sizeof self;
      const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
      MUST(bind(fd, (struct sockaddr*)&self, size));
      MUST(getsockname(fd, (struct sockaddr*)&self, &size));
      MUST(connect(fd, (struct sockaddr*)&self, size));
      MUST(send(fd, "x", 1, MSG_MORE));
      break;
    }
    case 4:
      unlink("fifo");
      MUST(mkfifo("fifo", 0600));
      const int both = MUST(open("fifo", O_RDWR));
      MUST(write(both, "unread", 6));
      MUST(open("fifo", O_WRONLY));
      close(both);
      break;
    case 5: {  // an answer that nobody has read
      const struct nlmsghdr wrong = {.nlmsg_len = sizeof wrong, .nlmsg_type = 4000, .nlmsg_flags = NLM_F_REQUEST};
      MUST(send(MUST(socket(AF_NETLINK, SOCK_RAW, 0)), &wrong, sizeof wrong, 0));
      break;
    }
    case 6:
      MUST(memfd_create("victim", MFD_HUGETLB));
      break;
    default:
      break;
  }
  victim_state = 0;  // a kind is no state
  victim_prepare();
}

static struct victim v = {.make = make, .verify = verify, .wreck = wreck, .become = become};

// The lines are read by a thread, so that the leader can end.
static void* run(void* unused) {
  (void)unused;
  _exit(victim_main(&v));
}
int main(void) {
  pthread_create(&leader, NULL, run, NULL);
  while (atomic_load(&leader_may_end) == 0) futex_wait(&leader_may_end, 0);
  pthread_exit(NULL);
}
