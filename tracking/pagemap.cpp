#include "tracking/pagemap.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <expected>
#include <span>

#include <fmt/format.h>

#include "task/procfs.h"

namespace relive::tracking {

namespace {

struct KernelRegion {
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t categories;
};

struct KernelScan {
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t walk_end;
  std::uint64_t vec;
  std::uint64_t vec_len;
  std::uint64_t max_pages;
  std::uint64_t category_inverted;
  std::uint64_t category_mask;
  std::uint64_t category_anyof_mask;
  std::uint64_t return_mask;
};
static_assert(sizeof(KernelScan) == 96);

constexpr unsigned long kPagemapScan = _IOWR('f', 16, KernelScan);
constexpr std::uint64_t kProtectMatching = 1U << 0;  // PM_SCAN_WP_MATCHING
constexpr std::uint64_t kRequireTracked = 1U << 1;   // PM_SCAN_CHECK_WPASYNC
constexpr std::size_t kRegions = 8192;               // per call; the kernel collects 512 at a time

KernelScan scan_of(AddressRange range, const PageQuery& query) {
  KernelScan scan{};
  scan.size = sizeof(scan);
  scan.start = range.begin;
  scan.end = range.end;
  scan.category_inverted = query.inverted;
  scan.category_mask = query.all;
  scan.category_anyof_mask = query.any;
  scan.return_mask = query.wanted;
  return scan;
}

bool accepts(int fd, std::uint64_t category) {
  // An empty range: the kernel checks the arguments and walks nothing.
  KernelScan scan = scan_of({kPageSize, kPageSize}, {.inverted = 0, .all = category, .any = 0, .wanted = category});
  return ::ioctl(fd, kPagemapScan, &scan) >= 0;
}

// One call; errno where it fails. The regions are valid until the next call of this thread.
std::expected<std::span<const KernelRegion>, int> call_with(int fd, KernelScan& scan) {
  static thread_local std::array<KernelRegion, kRegions> regions;
  scan.vec = reinterpret_cast<std::uint64_t>(regions.data());
  scan.vec_len = regions.size();
  for (;;) {
    const int count = ::ioctl(fd, kPagemapScan, &scan);
    if (count >= 0) return std::span<const KernelRegion>(regions.data(), static_cast<std::size_t>(count));
    if (errno != EINTR) return std::unexpected(errno);
  }
}

}  // namespace

Pagemap::Pagemap(UniqueFd fd) : fd_(std::move(fd)) {
  can_scan_ = accepts(fd_.get(), PageIs::written);
  knows_guards_ = can_scan_ && accepts(fd_.get(), PageIs::guard);
}

Result<Pagemap> Pagemap::open(model::Pid pid) { return Pagemap(RELIVE_TRY(task::open_proc(pid, "pagemap", O_RDONLY))); }

Result<std::vector<PageRegion>> Pagemap::scan(const Ranges& spans, const PageQuery& query) const {
  std::vector<PageRegion> out;
  for (AddressRange rest : spans) {
    while (!rest.empty()) {
      KernelScan scan = scan_of(rest, query);
      const auto found = call_with(fd_.get(), scan);
      if (!found)
        return fail_errno("ioctl PAGEMAP_SCAN", fmt::format("{:x}-{:x}", rest.begin, rest.end), found.error());
      for (const KernelRegion& region : *found)
        out.push_back({.range = {region.start, region.end}, .categories = region.categories});
      if (scan.walk_end <= rest.begin) return fail(ErrorKind::system, "PAGEMAP_SCAN does not get on");
      rest.begin = scan.walk_end;
    }
  }
  return out;
}

Result<Pagemap::Protected> Pagemap::protect(AddressRange range) const {
  Protected out;
  while (!range.empty()) {
    // The kernel has a fast path for exactly this query.
    KernelScan scan = scan_of(range, {.inverted = 0, .all = PageIs::written, .any = 0, .wanted = PageIs::written});
    scan.flags = kProtectMatching | kRequireTracked;
    const auto found = call_with(fd_.get(), scan);
    if (!found && found.error() == EPERM) {
      out.all_tracked = false;
      return out;
    }
    if (!found)
      return fail_errno("ioctl PAGEMAP_SCAN to protect", fmt::format("{:x}-{:x}", range.begin, range.end),
                        found.error());
    for (const KernelRegion& region : *found) {
      if (!out.pages.empty() && out.pages.back().end == region.start)
        out.pages.back().end = region.end;
      else
        out.pages.push_back({region.start, region.end});
    }
    if (scan.walk_end <= range.begin) return fail(ErrorKind::system, "PAGEMAP_SCAN does not get on");
    range.begin = scan.walk_end;
  }
  return out;
}

Result<std::vector<std::uint64_t>> Pagemap::entries(AddressRange range) const {
  std::vector<std::uint64_t> out(range.pages());
  std::size_t done = 0;  // bytes
  while (done < out.size() * sizeof(std::uint64_t)) {
    const auto at = static_cast<off_t>(range.begin / kPageSize * sizeof(std::uint64_t) + done);
    const ssize_t got =
        ::pread(fd_.get(), reinterpret_cast<char*>(out.data()) + done, out.size() * sizeof(std::uint64_t) - done, at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno("read pagemap", fmt::format("{:x}-{:x}", range.begin, range.end));
    if (got == 0) return fail(ErrorKind::task_died, "pagemap ends early: the task has ended");
    done += static_cast<std::size_t>(got);
  }
  return out;
}

}  // namespace relive::tracking
