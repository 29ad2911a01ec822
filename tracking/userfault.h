// The two ioctls of userfaultfd(2) that asynchronous write protection takes. They act on the memory of the task that
// created the descriptor, whoever calls them.
#pragma once

#include "base/page_range.h"
#include "base/result.h"

namespace relive::tracking {

// UFFDIO_API. ErrorKind::unsupported where the kernel lacks a feature (before 6.7).
Result<void> enable_async_protection(int userfault);

// UFFDIO_REGISTER for write protection. 0, or errno: EBUSY is another userfaultfd's, EPERM or EINVAL a kind of mapping
// that the kernel cannot track.
int register_range(int userfault, AddressRange range);

// UFFDIO_WRITEPROTECT: every page, and in shared memory every hole, which gets a marker. 0, or errno.
int protect_range(int userfault, AddressRange range);

}  // namespace relive::tracking
