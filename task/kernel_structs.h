// Structures of the kernel's interface that glibc 2.36 does not declare, or declares in another layout.
#pragma once

#include <cstdint>

namespace relive::task {

struct KernelSchedAttributes {  // struct sched_attr, SCHED_ATTR_SIZE_VER0 (sched_setattr(2)); times in nanoseconds
  std::uint32_t size, policy;
  std::uint64_t flags;
  std::int32_t nice;
  std::uint32_t priority;
  std::uint64_t runtime, deadline, period;
};

struct KernelStack {  // stack_t (sigaltstack(2)), with the address as a number: it is the task's
  std::uint64_t base;
  std::int32_t flags, pad;
  std::uint64_t size;
};

}  // namespace relive::task
