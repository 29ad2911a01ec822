#include "apply/memory_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/fault.h"
#include "base/page_range.h"
#include "capture/memory_file.h"

namespace relive::apply {

namespace {

using model::RemoteFd;
using parasite::Program;

std::uint64_t number(RemoteFd fd) { return static_cast<std::uint64_t>(fd.value); }

// Our descriptor at a spare number of the task, until the cleanup.
Result<RemoteFd> give(Workshop& workshop, int ours) {
  RELIVE_TRY(fault_point("give a memfd"));
  const RemoteFd spare = RELIVE_TRY(workshop.visit.spare_descriptor());
  const std::string what = fmt::format("close {}", spare.value);
  RELIVE_TRY(workshop.visit.record_undo(what, SYS_close, {number(spare)}));
  RELIVE_TRY(workshop.visit.give(ours, spare));
  workshop.cleanup.syscall(what, SYS_close, {number(spare)}, Program::OnError::go_on);
  return spare;
}

// Where the task has the first `bytes` of it mapped, until the cleanup.
Result<std::uint64_t> map(Workshop& workshop, RemoteFd fd, std::uint64_t bytes, int protection) {
  RELIVE_TRY(fault_point("map a memfd"));
  bytes = (bytes + kPageSize - 1) / kPageSize * kPageSize;
  const std::uint64_t place = RELIVE_TRY(workshop.visit.spare_range(bytes)).value;
  const std::string what = fmt::format("munmap {:x}", place);
  RELIVE_TRY(workshop.visit.record_undo(what, SYS_munmap, {place, bytes}));
  RELIVE_TRY(workshop.visit.syscall(
      fmt::format("mmap a memfd at {:x}", place), SYS_mmap,
      {place, bytes, static_cast<std::uint64_t>(protection), MAP_SHARED | MAP_FIXED_NOREPLACE, number(fd), 0}));
  workshop.cleanup.syscall(what, SYS_munmap, {place, bytes}, Program::OnError::go_on);
  return place;
}

// A file grows up to RLIMIT_FSIZE only.
Result<void> check_file_limit(Workshop& workshop, std::int64_t size) {
  const auto there = RELIVE_TRY(workshop.visit.arena().take(sizeof(rlimit)));
  RELIVE_TRY(workshop.visit.syscall("prlimit RLIMIT_FSIZE", SYS_prlimit64, {0, RLIMIT_FSIZE, 0, there.there.value}));
  rlimit limit{};
  std::memcpy(&limit, there.here, sizeof limit);
  if (static_cast<std::uint64_t>(size) <= limit.rlim_cur) return {};
  return fail(ErrorKind::refused,
              fmt::format("a memfd had {} bytes, and RLIMIT_FSIZE of the task is {}", size, limit.rlim_cur),
              "raise the task's RLIMIT_FSIZE (prlimit(1))");
}

// The pages that differ, as runs from one mapping to the other.
Result<std::vector<wire::CopyRun>> differing(int copy, int living, std::int64_t size, std::uint64_t from,
                                             std::uint64_t to) {
  std::vector<wire::CopyRun> runs;
  RELIVE_TRY(capture::for_each_piece(copy, living, size, [&](std::int64_t at, auto wanted, auto now) {
    for (std::size_t page = 0; page < wanted.size(); page += kPageSize) {
      const std::size_t bytes = std::min<std::size_t>(kPageSize, wanted.size() - page);
      if (std::memcmp(wanted.data() + page, now.data() + page, bytes) == 0) continue;
      const std::uint64_t offset = static_cast<std::uint64_t>(at) + page;
      if (!runs.empty() && runs.back().to + runs.back().bytes == to + offset)
        runs.back().bytes += bytes;
      else
        runs.push_back({.to = to + offset, .from = from + offset, .bytes = bytes});
    }
  }));
  return runs;
}

}  // namespace

Result<void> put_contents(Workshop& workshop, int ours, const model::MemoryFile& wanted, int copy) {
  const int seals = ::fcntl(ours, F_GET_SEALS);
  if (seals < 0) return fail_errno("fcntl F_GET_SEALS", "a memfd");
  if ((static_cast<std::uint32_t>(seals) & ~wanted.seals) != 0)
    return fail(ErrorKind::refused, "a memfd was sealed since the snapshot, and seals cannot be taken off");
  struct stat status{};
  if (::fstat(ours, &status) != 0) return fail_errno("fstat", "a memfd");
  if (copy < 0 && status.st_size == wanted.size) return {};
  if (copy < 0)
    return fail(ErrorKind::refused,
                "the size of a memfd that is sealed against writing was changed since the snapshot");
  if (status.st_size < wanted.size) RELIVE_TRY(check_file_limit(workshop, wanted.size));

  const UniqueFd writable = RELIVE_TRY(capture::open_again(ours, true));
  const auto bytes = static_cast<std::uint64_t>(wanted.size);
  std::vector<wire::CopyRun> runs;
  const RemoteFd there = RELIVE_TRY(give(workshop, writable.get()));
  if (bytes != 0) {
    const RemoteFd source = RELIVE_TRY(give(workshop, copy));
    const std::uint64_t from = RELIVE_TRY(map(workshop, source, bytes, PROT_READ));
    const std::uint64_t to = RELIVE_TRY(map(workshop, there, bytes, PROT_READ | PROT_WRITE));
    runs = RELIVE_TRY(differing(copy, writable.get(), wanted.size, from, to));
  }
  // What lies behind a shorter end reads as zeros when the file grows again: cutting it off first is enough.
  if (status.st_size != wanted.size)
    workshop.commit.syscall(fmt::format("ftruncate {} {}", there.value, wanted.size), SYS_ftruncate,
                            {number(there), bytes});
  if (runs.empty()) return {};
  const auto list = RELIVE_TRY(workshop.visit.arena().put(std::as_bytes(std::span(runs))));
  workshop.commit.add(fmt::format("copy {} pieces into a memfd", runs.size()), wire::Kind::copy_runs,
                      {list.value, runs.size()});
  return {};
}

}  // namespace relive::apply
