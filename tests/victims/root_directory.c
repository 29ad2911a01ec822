// The root directory, changed by chroot(2). For root only. (procfs is not seen from inside: nothing of it is needed
// here.)
#include "victim.h"

#include <sys/stat.h>

static struct stat wanted;
static int outside;

static void make(void) {
  if (geteuid() != 0) victim_skip("needs CAP_SYS_CHROOT: chroot(2)");
  outside = MUST(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (mkdir("jail", 0755) != 0 && errno != EEXIST) victim_die("mkdir");
  MUST(stat("jail", &wanted));
  MUST(close(outside));
  outside = MUST(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  MUST(chdir("jail"));
  if (chroot(".") != 0) victim_skip("needs CAP_SYS_CHROOT: chroot(2)");
}
static void verify(void) {
  struct stat found = {0};
  stat("/", &found);
  CHECK(found.st_ino == wanted.st_ino && found.st_dev == wanted.st_dev, "the root directory is another");
  stat(".", &found);
  CHECK(found.st_ino == wanted.st_ino && found.st_dev == wanted.st_dev, "the current directory is another");
}
static void wreck(unsigned round) {
  (void)round;
  MUST(fchdir(outside));
  MUST(chroot("."));
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck}); }
