// The first process of the small virtual machine: mounts what tests need, runs the commands in /commands one after the
// other, says how each ended on the serial console, and switches the machine off.
//
// A line of /commands: NAME SECONDS [VARIABLE=VALUE...] PROGRAM [ARGUMENT...], words between single spaces.
// What it says: "vm: NAME: exit 0" (or "signal 11", "no end after 60 s") for each, and at last "vm: over".
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void make(const char* type, const char* folder) {
  mkdir(folder, 0755);
  if (mount(type, folder, type, 0, NULL) != 0) printf("vm: mount %s: %s\n", folder, strerror(errno));
}

static void load(const char* module) {
  const int fd = open(module, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) != 0) printf("vm: %s: %s\n", module, strerror(errno));
  close(fd);
}

static void bring_loopback_up(void) {
  struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
  const int s = socket(AF_INET, SOCK_DGRAM, 0);
  if (s < 0 || ioctl(s, SIOCSIFFLAGS, &request) != 0) printf("vm: loopback: %s\n", strerror(errno));
  close(s);
}

// Runs one command in a session of its own, reaping whatever else ends meanwhile. Kills it after `seconds`.
static void run(const char* name, int seconds, char** words) {
  const pid_t pid = fork();
  if (pid == 0) {
    setsid();
    while (*words != NULL && strchr(*words, '=') != NULL && **words != '-') putenv(*words++);
    execv(words[0], words);
    printf("vm: %s: %s\n", words[0], strerror(errno));
    fflush(stdout);
    _exit(127);
  }
  const time_t end = time(NULL) + seconds;
  for (;;) {
    int status = 0;
    const pid_t ended = waitpid(-1, &status, WNOHANG);
    if (ended == pid) {
      if (WIFEXITED(status))
        printf("vm: %s: exit %d\n", name, WEXITSTATUS(status));
      else
        printf("vm: %s: signal %d\n", name, WTERMSIG(status));
      break;
    }
    if (ended > 0) continue;
    if (time(NULL) > end) {
      printf("vm: %s: no end after %d s\n", name, seconds);
      break;
    }
    usleep(20000);
  }
  kill(-pid, SIGKILL);
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  make("proc", "/proc");
  make("sysfs", "/sys");
  make("devtmpfs", "/dev");
  make("devpts", "/dev/pts");
  make("tmpfs", "/dev/shm");
  make("tmpfs", "/tmp");
  make("tmpfs", "/run");
  load("/modules/unix_diag.ko");
  load("/modules/inet_diag.ko");
  load("/modules/tcp_diag.ko");
  bring_loopback_up();
  sethostname("vm", 2);
  setenv("PATH", "/bin", 1);
  setenv("HOME", "/tmp", 1);
  chdir("/tmp");

  FILE* commands = fopen("/commands", "re");
  char line[4096];
  while (commands != NULL && fgets(line, sizeof line, commands) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    char* words[256];
    int count = 0;
    for (char* word = strtok(line, " "); word != NULL && count < 255; word = strtok(NULL, " ")) words[count++] = word;
    words[count] = NULL;
    if (count >= 3) run(words[0], atoi(words[1]), words + 2);
  }
  printf("vm: over\n");
  fflush(stdout);
  reboot(RB_POWER_OFF);
  return 1;  // never: the kernel panics when its first process ends
}
