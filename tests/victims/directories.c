// Current directory and umask; the directory may lose its name meanwhile.
#include "victim.h"

#include <sys/stat.h>

static char top[4096];
static struct stat wanted[2];
static const char* const names[2] = {"first", "second"};
static const mode_t umasks[2] = {0027, 0077};

static void set(unsigned state) {
  MUST(chdir(top));
  MUST(chdir(names[state % 2]));
  umask(umasks[state % 2]);
}
static void make(void) {
  if (getcwd(top, sizeof top) == NULL) victim_die("getcwd");
  for (int i = 0; i < 2; ++i) {
    if (mkdir(names[i], 0755) != 0 && errno != EEXIST) victim_die("mkdir");
    MUST(stat(names[i], &wanted[i]));
  }
  set(0);
}
static void verify(void) {
  struct stat found = {0};
  const unsigned s = victim_state % 2;
  stat(".", &found);
  CHECK(found.st_ino == wanted[s].st_ino && found.st_dev == wanted[s].st_dev, "the current directory is another");
  char path[5000], want[5000];
  snprintf(want, sizeof want, "%s/%s", top, names[s]);
  CHECK(getcwd(path, sizeof path) != NULL && strcmp(path, want) == 0, "getcwd says %s", path);
  const mode_t mask = umask(0);
  umask(mask);
  CHECK(mask == umasks[s], "umask is %o", mask);
}
static void wreck(unsigned round) {
  MUST(chdir(round % 2 == 0 ? "/" : ".."));
  umask(0111);
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set}); }
