// Are two descriptors one open file description? (kcmp(2), KCMP_FILE; needs the right to ptrace both.)
#pragma once

#include <sys/types.h>

#include <compare>
#include <cstdint>

#include "base/result.h"

namespace relive::capture {

// An order of open file descriptions that holds as long as they live; equal where they are one.
Result<std::strong_ordering> compare_files(pid_t first, int first_fd, pid_t second, int second_fd);

// How many comparisons this process has asked the kernel for.
[[nodiscard]] std::uint64_t kcmp_calls();

}  // namespace relive::capture
