// /proc/PID/pagemap: what the kernel knows about each page of a task, and write protection from outside.
//
// Facts, from fs/proc/task_mmu.c (Linux 6.7 to 6.18) and proven by tests/live/tracking_test.cpp on 6.18:
// - A page table that does not exist is a hole: it has no category at all, not even `written`. So dropped pages show as
//   `written` only while their page table lives; asking for "not present" as well finds the others.
// - An unpopulated page that was protected carries a marker and shows as `swapped`, not `written`.
// - MADV_DONTNEED of a protected page leaves such a marker behind in mappings of files, private ones too: the copied
// page
//   is gone and nothing says `written`. In anonymous mappings the marker goes with the page.
// - A mapping that was made anew, moved or copied by fork is not `tracked`; where an older kernel leaves the protection
//   bits of moved pages behind, they mean nothing.
// - Asking for `file` looks up the page's descriptor: 0.08 us a page, 20 ms for 1 GiB, where the page tables alone take
//   1.1 ms (0.65 ms for "written" alone). Ask for it only where the answer matters.
// - "Written" alone finds no holes, and finding these otherwise costs as much: touching one page in each page table of
//   1 GiB takes 0.7 ms.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "model/ids.h"
#include "tracking/page_map.h"

namespace relive::tracking {

// Categories of PAGEMAP_SCAN (linux/fs.h since 6.7; Debian 12's headers do not have them).
struct PageIs {
  static constexpr std::uint64_t tracked =
      1U << 0;  // PAGE_IS_WPALLOWED: the mapping is registered for asynchronous write protection
  static constexpr std::uint64_t written = 1U << 1;  // not protected
  static constexpr std::uint64_t file = 1U << 2;     // of a file, or shared anonymous
  static constexpr std::uint64_t present = 1U << 3;
  static constexpr std::uint64_t swapped = 1U << 4;  // or a marker of any kind
  static constexpr std::uint64_t zero = 1U << 5;     // the kernel's page of zeros
  static constexpr std::uint64_t guard = 1U << 8;    // MADV_GUARD_INSTALL; category since 6.15
};

// Bits of the 64-bit entries that read(2) gives (Documentation/admin-guide/mm/pagemap.rst).
struct PagemapBit {
  static constexpr std::uint64_t soft_dirty = 1ULL << 55;
  static constexpr std::uint64_t exclusive = 1ULL << 56;  // mapped once; never set for the page of zeros
  static constexpr std::uint64_t file = 1ULL << 61;
  static constexpr std::uint64_t swapped = 1ULL << 62;
  static constexpr std::uint64_t present = 1ULL << 63;
};

struct PageRegion {
  AddressRange range;
  std::uint64_t categories = 0;
};

// A page is reported if ((its categories ^ inverted) has all of `all`) and (some of `any`, unless that is empty).
struct PageQuery {
  std::uint64_t inverted = 0;
  std::uint64_t all = 0;
  std::uint64_t any = 0;
  std::uint64_t wanted = 0;  // categories to report
};

class Pagemap {
 public:
  // Keeps the file open: one open serves the whole life of the address space.
  static Result<Pagemap> open(model::Pid pid);

  // Does this kernel know PAGEMAP_SCAN (6.7)? And its guard category (6.15)?
  [[nodiscard]] bool can_scan() const { return can_scan_; }
  [[nodiscard]] bool knows_guards() const { return knows_guards_; }

  // REQUIRES: can_scan(). What is reported may go beyond mappings that the caller had in mind: `spans` can hold
  // anything.
  Result<std::vector<PageRegion>> scan(const Ranges& spans, const PageQuery& query) const;

  // Protects every page in `range` that is not. Holes stay holes: a page that appears in one is not protected.
  // REQUIRES: can_scan().
  struct Protected {
    bool all_tracked = true;  // else a mapping in `range` is not tracked; some pages may be protected now, others not
    Ranges pages;             // those that were not protected before: written since, or never there
  };
  Result<Protected> protect(AddressRange range) const;

  // One entry a page, in any kernel.
  Result<std::vector<std::uint64_t>> entries(AddressRange range) const;

 private:
  explicit Pagemap(UniqueFd fd);
  UniqueFd fd_;
  bool can_scan_ = false;
  bool knows_guards_ = false;
};

}  // namespace relive::tracking
