#include "capture/kcmp.h"

#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace relive::capture {

namespace {
std::uint64_t calls = 0;
}

Result<std::strong_ordering> compare_files(pid_t first, int first_fd, pid_t second, int second_fd) {
  ++calls;
  switch (::syscall(SYS_kcmp, first, second, KCMP_FILE, first_fd, second_fd)) {
    case 0:
      return std::strong_ordering::equal;
    case 1:
      return std::strong_ordering::less;
    case 2:
      return std::strong_ordering::greater;
    default:
      return fail_errno("kcmp", "KCMP_FILE");
  }
}

std::uint64_t kcmp_calls() { return calls; }

}  // namespace relive::capture
