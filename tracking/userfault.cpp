#include "tracking/userfault.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cerrno>

namespace relive::tracking {

namespace {
constexpr std::uint64_t kProtectFiles = 1ULL << 12;        // UFFD_FEATURE_WP_HUGETLBFS_SHMEM, 5.19
constexpr std::uint64_t kProtectUnpopulated = 1ULL << 13;  // UFFD_FEATURE_WP_UNPOPULATED, 6.4
constexpr std::uint64_t kProtectAsync = 1ULL << 15;        // UFFD_FEATURE_WP_ASYNC, 6.7
}  // namespace

Result<void> enable_async_protection(int userfault) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kProtectFiles | kProtectUnpopulated | kProtectAsync;
  if (::ioctl(userfault, UFFDIO_API, &api) == 0) return {};
  if (errno == EINVAL)
    return fail(ErrorKind::unsupported, "asynchronous write protection is not in this kernel",
                "Linux 6.7, or another tracker");
  return fail_errno("ioctl UFFDIO_API", "");
}

int register_range(int userfault, AddressRange range) {
  uffdio_register wanted{};
  wanted.range = {range.begin, range.size()};
  wanted.mode = UFFDIO_REGISTER_MODE_WP;
  return ::ioctl(userfault, UFFDIO_REGISTER, &wanted) == 0 ? 0 : errno;
}

int protect_range(int userfault, AddressRange range) {
  uffdio_writeprotect wanted{};
  wanted.range = {range.begin, range.size()};
  wanted.mode = UFFDIO_WRITEPROTECT_MODE_WP;
  return ::ioctl(userfault, UFFDIO_WRITEPROTECT, &wanted) == 0 ? 0 : errno;
}

}  // namespace relive::tracking
