// The address space of a task.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/page_range.h"
#include "model/ids.h"

namespace relive::model {

// Marks that madvise(2), mlock(2), mseal(2) and mmap(2) leave on a mapping; from VmFlags in /proc/PID/smaps (proc(5)).
struct MappingMarks {
  bool dont_fork = false;      // dc
  bool dont_dump = false;      // dd
  bool wipe_on_fork = false;   // wf
  bool mergeable = false;      // mg
  bool huge_page = false;      // hg
  bool no_huge_page = false;   // nh
  bool sequential = false;     // sr
  bool random = false;         // rr
  bool locked = false;         // lo
  bool lock_on_fault = false;  // lf
  bool grows_down = false;     // gd
  bool no_reserve = false;     // nr
  bool sealed = false;         // sl
  bool huge_tlb = false;       // ht
  bool droppable = false;      // dp
  bool shadow_stack = false;   // ss
  bool io = false;             // io or pf: device memory
  bool may_write = false;      // mw
  bool operator==(const MappingMarks&) const = default;
};

enum class MappingSource : std::uint8_t {
  anonymous,         // private, no file
  file,              // private or shared mapping of a file with a name
  deleted_file,      // of a file whose name is gone
  shared_anonymous,  // MAP_SHARED|MAP_ANONYMOUS, shown as "/dev/zero (deleted)"
  memfd,             // "/memfd:NAME (deleted)"
  sysv,              // "/SYSVxxxxxxxx (deleted)"
  device,            // character or block device, or a ring shared with the kernel (aio, io_uring, sockets)
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
  // Has an object behind it: offset, device and inode say which part of which.
  [[nodiscard]] bool has_object() const;
  // The part of this mapping that lies in `part`. REQUIRES: range contains part.
  [[nodiscard]] Mapping cut(AddressRange part) const;
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

// "r-xp"
std::string permissions_text(const Mapping& mapping);
// "7f0000000000-7f0000021000 rw-p anonymous 132 KiB"
std::string mapping_text(const Mapping& mapping);
// "132 KiB", "2 MiB": exact.
std::string size_text(std::uint64_t bytes);

// The anonymous name that prctl(PR_SET_VMA_ANON_NAME) gave ("[anon:NAME]", "[anon_shmem:NAME]"), or empty. "[heap]" and
// "[stack]" are no names: the kernel derives them from the layout.
std::string_view given_name(const Mapping& mapping);

// Are both parts of one object at `address`? For anonymous private memory: could be (nothing tells two apart).
// REQUIRES: both ranges contain `address`.
bool same_object(const Mapping& a, const Mapping& b, std::uint64_t address);

// Neighbours with equal attributes that continue each other become one mapping: where a line of the maps file ends
// depends on history (a tracked mapping does not merge), what is mapped does not.
std::vector<Mapping> merged(std::vector<Mapping> mappings);

// Which mapping of `memory` a file is held by, for all mappings of the same file with the same need to write: the begin
// of the first of them (key of capture::Holds::mapped_files).
std::uint64_t hold_key(const Memory& memory, const Mapping& mapping);
// Does making `mapping` anew need the file open for writing? (shared and may be written)
bool needs_writable_file(const Mapping& mapping);

}  // namespace relive::model
