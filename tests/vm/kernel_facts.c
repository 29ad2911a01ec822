// What the virtual machine is there for: its kernel sets soft-dirty bits, and has none of the newer calls that relive
// uses where it finds them. If a fact does not hold, the machine tests something else than it should.
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

static int wrong = 0;

static void fact(const char* what, int holds) {
  printf("%s: %s\n", holds ? "holds" : "WRONG", what);
  wrong += !holds;
}

static int soft_dirty(const volatile char* page) {
  uint64_t entry = 0;
  const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pread(fd, &entry, sizeof entry, (off_t)((uintptr_t)page / 4096 * sizeof entry)) != sizeof entry) wrong++;
  close(fd);
  return (int)(entry >> 55 & 1);  // Documentation/admin-guide/mm/soft-dirty.rst
}

static void clear(void) {
  const int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (write(fd, "4", 1) != 1) wrong++;
  close(fd);
}

int main(void) {
  struct utsname name;
  uname(&name);
  printf("kernel: %s\n", name.release);

  volatile char* page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *page = 1;
  clear();
  fact("a page is clean after clear_refs", !soft_dirty(page));
  *page = 2;
  fact("a written page is soft-dirty", soft_dirty(page));
  clear();
  const int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  if (read(zero, (void*)page, 16) != 16) wrong++;
  fact("a page that the kernel wrote to is soft-dirty", soft_dirty(page));

  struct {
    uint64_t words[12];
  } scan = {{sizeof scan, 0, (uintptr_t)page, (uintptr_t)page + 4096}};
  const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  fact("no PAGEMAP_SCAN (Linux 6.7)", ioctl(pagemap, _IOWR('f', 16, scan), &scan) < 0 && errno == ENOTTY);

  const int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
  struct uffdio_api api = {.api = UFFD_API};
  fact("userfaultfd is there", uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0);
  fact("without WP_ASYNC (Linux 6.7)", (api.features & 1u << 15) == 0);

  struct {
    uint64_t words[13];
  } query = {{sizeof query, 0x10, (uintptr_t)page}};
  const int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  fact("no PROCMAP_QUERY (Linux 6.11)", ioctl(maps, _IOWR('f', 17, query), &query) < 0 && errno == ENOTTY);
  fact("no PR_TIMER_CREATE_RESTORE_IDS (Linux 6.15)", prctl(77, 1, 0, 0, 0) < 0 && errno == EINVAL);
  return wrong != 0;
}
