// The address space of a task.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/page_range.h"
#include "model/ids.h"

namespace relive::model {

// Marks that madvise(2) and mlock(2) leave on a mapping; from VmFlags in /proc/PID/smaps (proc(5)).
struct MappingMarks {
  bool dont_fork = false;       // dc
  bool dont_dump = false;       // dd
  bool wipe_on_fork = false;    // wf
  bool mergeable = false;       // mg
  bool huge_page = false;       // hg
  bool no_huge_page = false;    // nh
  bool sequential = false;      // sr
  bool random = false;          // rr
  bool locked = false;          // lo
  bool lock_on_fault = false;   // lf
  bool grows_down = false;      // gd
  bool no_reserve = false;      // nr
  bool sealed = false;          // sl
  bool huge_tlb = false;        // ht
  bool droppable = false;       // dp
  bool io = false;              // io or pf: device memory
  bool may_write = false;       // mw
  bool operator==(const MappingMarks&) const = default;
};

enum class MappingSource : std::uint8_t {
  anonymous,         // private, no file
  file,              // private or shared mapping of a file with a name
  deleted_file,      // of a file whose name is gone
  shared_anonymous,  // MAP_SHARED|MAP_ANONYMOUS, shown as "/dev/zero (deleted)"
  memfd,             // "/memfd:NAME (deleted)"
  sysv,              // "/SYSVxxxxxxxx (deleted)"
  device,            // character or block device
  kernel,            // [vdso], [vvar], [vvar_vclock], [vsyscall]: the kernel's own
  relive,            // the parasite, its arena and its page store: no part of any snapshot
};

struct Mapping {
  AddressRange range;
  bool readable = false;
  bool writable = false;
  bool executable = false;
  bool shared = false;
  MappingSource source = MappingSource::anonymous;
  std::uint64_t offset = 0;  // bytes into the file
  std::uint64_t device = 0;  // makedev(3)
  std::uint64_t inode = 0;
  std::string name;  // path, "[heap]", "[stack]", "[anon:NAME]", or empty
  std::uint32_t protection_key = 0;
  MappingMarks marks;

  [[nodiscard]] bool is_private() const { return !shared; }
  [[nodiscard]] int protection() const;  // PROT_*
  bool operator==(const Mapping&) const = default;
};

// The numbers that PR_SET_MM_MAP sets (prctl(2)); addresses in the task.
struct MemoryLayout {
  std::uint64_t start_code = 0, end_code = 0;
  std::uint64_t start_data = 0, end_data = 0;
  std::uint64_t start_brk = 0, brk = 0;
  std::uint64_t start_stack = 0;
  std::uint64_t arg_start = 0, arg_end = 0;
  std::uint64_t env_start = 0, env_end = 0;
  bool operator==(const MemoryLayout&) const = default;
};

struct Memory {
  std::vector<Mapping> mappings;  // ascending, not overlapping; relive's own are left out
  MemoryLayout layout;
  std::uint64_t locked_bytes = 0;  // VmLck of /proc/PID/status
  std::int32_t lock_future = 0;    // mlockall(2) flags in force cannot be read: 0, kept for images
  bool operator==(const Memory&) const = default;
};

}  // namespace relive::model
