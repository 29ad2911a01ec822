// A system call of timers that the C library's headers may lack.
#pragma once

#include <sys/ioctl.h>

#include <cstdint>

namespace relive::task {

// TFD_IOC_SET_TICKS of linux/timerfd.h (Linux 3.17, with CONFIG_CHECKPOINT_RESTORE): how many expirations of a timerfd
// are unread; never 0. Wakes whoever waits for it.
inline constexpr unsigned long kSetTimerTicks = _IOW('T', 0, std::uint64_t);

}  // namespace relive::task
