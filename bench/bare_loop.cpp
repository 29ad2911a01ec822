// The bare loop: what a rollback of memory costs at the very least on this machine, in its present state.
//
// One process does by hand, on its own memory, what relive does to another's: it asks the kernel which pages were
// written (PAGEMAP_SCAN on memory under userfaultfd's WP_ASYNC), copies them from a copy of the memory, and protects
// them again. No freeze, no capture, no plan. bench/run puts it beside each rollback, round by round.
//
//     bare_loop MIB
//
// reads lines from stdin, each a number of pages. It dirties so many scattered pages (not timed), goes back, checks
// these pages and prints "scan_us copy_us arm_us". At the end it checks every page.
//
// Kernel facts: PAGEMAP_SCAN and UFFD_FEATURE_WP_ASYNC are of Linux 6.7 (Documentation/admin-guide/mm/pagemap.rst);
// Debian 12's headers are older, so the few numbers stand here.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "bench/scattered.h"

namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kWpAsync = 1u << 15;        // UFFD_FEATURE_WP_ASYNC
constexpr std::uint64_t kWpUnpopulated = 1u << 13;  // UFFD_FEATURE_WP_UNPOPULATED
constexpr std::uint64_t kScanProtect = 3;           // PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC
constexpr std::uint64_t kPageIsWritten = 1u << 1;   // PAGE_IS_WRITTEN

struct PageRegion {
  std::uint64_t start, end, categories;
};
struct ScanArguments {
  std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  std::uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArguments);

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

void* map(std::uint64_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) die("mmap");
  ::madvise(memory, bytes, MADV_NOHUGEPAGE);  // whole huge pages would be reported dirty
  return memory;
}

double us_since(std::chrono::steady_clock::time_point then) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - then).count();
}

class BareLoop {
 public:
  explicit BareLoop(std::uint64_t bytes)
      : bytes_(bytes),
        living_(static_cast<std::byte*>(map(bytes))),
        stored_(static_cast<std::byte*>(map(bytes))),
        regions_(16384) {
    for (std::uint64_t at = 0; at < bytes_; at += sizeof at) std::memcpy(living_ + at, &at, sizeof at);
    std::memcpy(stored_, living_, bytes_);
    uffd_ = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));
    if (uffd_ < 0) die("userfaultfd");
    uffdio_api api{.api = UFFD_API, .features = kWpAsync | kWpUnpopulated, .ioctls = 0};
    if (::ioctl(uffd_, UFFDIO_API, &api) != 0) die("UFFDIO_API (needs Linux 6.7)");
    uffdio_register registration{.range = {address(), bytes_}, .mode = UFFDIO_REGISTER_MODE_WP, .ioctls = 0};
    if (::ioctl(uffd_, UFFDIO_REGISTER, &registration) != 0) die("UFFDIO_REGISTER");
    pagemap_ = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap_ < 0) die("/proc/self/pagemap");
    uffdio_writeprotect protection{.range = {address(), bytes_}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    if (::ioctl(uffd_, UFFDIO_WRITEPROTECT, &protection) != 0) die("UFFDIO_WRITEPROTECT");
  }

  void dirty(std::span<const std::uint64_t> pages) {
    for (const auto page : pages) living_[page * kPage + 128] ^= std::byte{0xff};
  }

  std::span<const PageRegion> scan() {
    std::size_t found = 0;
    for (std::uint64_t at = address(); at < address() + bytes_;) {
      ScanArguments scan{};
      scan.size = sizeof scan;
      scan.start = at;
      scan.end = address() + bytes_;
      scan.vec = reinterpret_cast<std::uint64_t>(regions_.data() + found);
      scan.vec_len = regions_.size() - found;
      scan.category_mask = scan.return_mask = kPageIsWritten;
      const int regions = ::ioctl(pagemap_, kPagemapScan, &scan);
      if (regions < 0) die("PAGEMAP_SCAN");
      found += static_cast<std::size_t>(regions);
      at = scan.walk_end;
      if (found == regions_.size()) regions_.resize(2 * found);
    }
    return {regions_.data(), found};
  }

  void copy(std::span<const PageRegion> regions) {
    for (const auto& region : regions)
      std::memcpy(living_ + (region.start - address()), stored_ + (region.start - address()),
                  region.end - region.start);
  }

  // One walk that protects what was written. Of four ways the cheapest here for 1,000 and 10,000 scattered pages: a
  // UFFDIO_WRITEPROTECT a page costs 1.4 us each, one over the whole GiB 17 ms.
  void arm(std::span<const PageRegion> regions) {
    if (regions.empty()) return;
    for (std::uint64_t at = regions.front().start; at < regions.back().end;) {
      ScanArguments scan{};
      scan.size = sizeof scan;
      scan.flags = kScanProtect;
      scan.start = at;
      scan.end = regions.back().end;
      scan.category_mask = kPageIsWritten;
      if (::ioctl(pagemap_, kPagemapScan, &scan) < 0) die("PAGEMAP_SCAN to protect");
      at = scan.walk_end;
    }
  }

  [[nodiscard]] bool is_back() const { return std::memcmp(living_, stored_, bytes_) == 0; }
  [[nodiscard]] bool is_back(std::span<const std::uint64_t> pages) const {
    return std::ranges::all_of(
        pages, [&](auto page) { return std::memcmp(living_ + page * kPage, stored_ + page * kPage, kPage) == 0; });
  }

 private:
  [[nodiscard]] std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(living_); }

  std::uint64_t bytes_;
  std::byte* living_;
  std::byte* stored_;
  std::vector<PageRegion> regions_;
  int uffd_ = -1;
  int pagemap_ = -1;
};

int missed() {
  std::fprintf(stderr, "bare_loop: a written page was not reported\n");
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: bare_loop MIB   (each line on stdin: pages to dirty)\n");
    return 2;
  }
  const auto bytes = std::strtoull(argv[1], nullptr, 10) << 20;
  BareLoop loop(bytes);
  char line[64];
  for (std::uint64_t round = 0; std::fgets(line, sizeof line, stdin) != nullptr; ++round) {
    const auto pages = relive::bench::scattered(bytes / kPage, std::strtoull(line, nullptr, 10), round);
    loop.dirty(pages);
    auto then = std::chrono::steady_clock::now();
    const auto regions = loop.scan();
    const double scan = us_since(then);
    then = std::chrono::steady_clock::now();
    loop.copy(regions);
    const double copy = us_since(then);
    then = std::chrono::steady_clock::now();
    loop.arm(regions);
    const double arm = us_since(then);
    if (!loop.is_back(pages)) return missed();
    std::printf("%.1f %.1f %.1f\n", scan, copy, arm);
    std::fflush(stdout);
  }
  return loop.is_back() ? 0 : missed();
}
