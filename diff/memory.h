// Address space against address space: what differs, and the fewest operations that remove the difference. Pure.
//
// The two are compared as intervals, not as lines of a maps file: both are cut at all borders of either, so that a
// mapping that the kernel has split or merged without changing it is no difference. Each piece of the wanted memory is
// either kept (its mapping's object is in place; protection, marks and pages may differ) or made anew; each piece of
// the living memory that is neither wanted nor replaced is unmapped.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/page_range.h"
#include "diff/difference.h"
#include "model/memory.h"
#include "tracking/page_map.h"

namespace relive::diff {

struct UnmapRange {
  AddressRange range;
  bool operator==(const UnmapRange&) const = default;
};

// The kernel's own mapping ([vdso], [vvar]) lies elsewhere: a task that was made again has them where its execve(2) put
// them. mremap(2) moves them, whole only, and tells the kernel's books (special_mapping_mremap()).
struct MoveKernelMapping {
  std::string name;
  AddressRange from;
  std::uint64_t to = 0;
  bool operator==(const MoveKernelMapping&) const = default;
};

// Makes `mapping` (its range, protection, object; without marks, but for those that only mmap(2) can give: grows_down,
// no_reserve, droppable).
struct MakeMapping {
  model::Mapping mapping;
  bool in_place = false;       // nothing is mapped there now; else something is, and goes when this comes
  std::uint64_t hold_key = 0;  // in capture::Holds::mapped_files; for mappings of an object
  std::uint64_t twin =
      0;  // shared: an address of the living memory where the same part of the same object is mapped (0: none)
  bool operator==(const MakeMapping&) const = default;
};

struct ProtectRange {
  AddressRange range;
  int from = 0;  // PROT_*
  int to = 0;
  std::uint32_t from_key = 0;  // protection key
  std::uint32_t to_key = 0;
  bool operator==(const ProtectRange&) const = default;
};

// What a mark operation states. Access is one of three: on = false makes `sequential` and `random` normal.
enum class Mark : std::uint8_t {
  dont_fork,
  dont_dump,
  wipe_on_fork,
  mergeable,
  huge_page,
  no_huge_page,
  sequential,
  random,
  sealed
};

struct MarkRange {
  AddressRange range;
  Mark mark = Mark::dont_fork;
  bool on = false;
  bool operator==(const MarkRange&) const = default;
};

enum class Lock : std::uint8_t { none, locked, on_fault };

struct LockRange {
  AddressRange range;
  Lock from = Lock::none;
  Lock to = Lock::none;
  bool operator==(const LockRange&) const = default;
};

struct NameRange {  // prctl(PR_SET_VMA_ANON_NAME), Linux 5.17
  AddressRange range;
  std::string name;  // empty: no name
  bool operator==(const NameRange&) const = default;
};

// Contents that may vanish at any time (VM_DROPPABLE: the vDSO's getrandom state) do.
struct DropRange {
  AddressRange range;
  bool operator==(const DropRange&) const = default;
};

struct SetLayout {  // prctl(PR_SET_MM_MAP)
  model::MemoryLayout from;
  model::MemoryLayout to;
  bool operator==(const SetLayout&) const = default;
};

// In the order of execution: all of a kind in this order, by address within a kind.
using MemoryOperation = std::variant<UnmapRange, MoveKernelMapping, MakeMapping, ProtectRange, NameRange, MarkRange,
                                     LockRange, DropRange, SetLayout>;
std::string text(const MemoryOperation& operation);

// A piece of the address space in which neither side has a border.
struct MemoryPiece {
  AddressRange range;
  const model::Mapping* wanted = nullptr;  // null: to be unmapped
  const model::Mapping* living = nullptr;  // null: nothing is mapped there
  bool kept = false;
};

struct MemoryPlan {
  std::vector<Difference> differences;
  std::vector<Refusal> refusals;
  std::vector<MemoryOperation> operations;

  // For tracking::plan_pages: where contents are put back. `kept`: the mapping's object stays. `made`: it is made anew
  // and starts as its backing. Kernel mappings, devices, droppable memory and shared files that the task may not write
  // are in neither.
  tracking::Ranges kept;
  tracking::Ranges made;

  std::vector<MemoryPiece> pieces;  // ascending, wanted or living; point into the memories that were compared
};

// REQUIRES: both memories outlive the plan.
MemoryPlan plan_memory(const model::Memory& wanted, const model::Memory& living);

// What a snapshot cannot contain, by name: hugetlb, devices and rings, shadow stacks.
std::vector<Refusal> unhandled_memory(const model::Memory& memory);

}  // namespace relive::diff
