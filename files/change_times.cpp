#include "files/change_times.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/page_range.h"

namespace relive::files {

namespace {

constexpr int kTries = 16;
constexpr long kNapNs = 500'000;
constexpr int kNaps = 40;  // 20 ms: two ticks of the slowest clock

Time changed_of(int fd) {
  struct stat seen{};
  if (::fstat(fd, &seen) != 0) return {};
  return {seen.st_ctim.tv_sec, static_cast<std::uint32_t>(seen.st_ctim.tv_nsec)};
}

// What the kernel stamps files with where it stamps them coarsely.
Time coarse_now() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return {now.tv_sec, static_cast<std::uint32_t>(now.tv_nsec)};
}

bool fine(int fd) {
  for (int round = 0; round < kTries; ++round) {
    const Time before = changed_of(fd);
    if (::pwrite(fd, "x", 1, 0) != 1 || changed_of(fd) == before) return false;
  }
  return true;
}

bool mapped_writes(int fd) {
  void* const there = ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (there == MAP_FAILED) return false;
  auto* const byte = static_cast<volatile char*>(there);
  [[maybe_unused]] const char read_first = *byte;
  const Time before = changed_of(fd);
  let_pass(before);
  *byte = 'y';
  const bool shows = changed_of(fd) != before;
  ::munmap(there, kPageSize);
  return shows;
}

}  // namespace

Result<ChangeTimes> try_change_times(int fd) {
  if (::ftruncate(fd, static_cast<off_t>(kPageSize)) != 0) return fail_errno("ftruncate", "a file of relive's own");
  ChangeTimes found;
  found.fine = fine(fd);
  // Clean pages only are written with a fault.
  if (::fsync(fd) != 0) return fail_errno("fsync", "a file of relive's own");
  found.mapped_writes = mapped_writes(fd);
  if (::ftruncate(fd, 0) != 0) return fail_errno("ftruncate", "a file of relive's own");
  return found;
}

bool too_fresh(const Time& changed) { return changed >= coarse_now(); }

void let_pass(const Time& changed) {
  const timespec nap{.tv_sec = 0, .tv_nsec = kNapNs};
  for (int naps = 0; naps < kNaps && too_fresh(changed); ++naps) ::nanosleep(&nap, nullptr);
}

}  // namespace relive::files
