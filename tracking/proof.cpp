// Does tracking work here? A page of our own is armed, shown to be clean, written, and must show as written.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "task/procfs.h"
#include "tracking/pagemap.h"
#include "tracking/tracker.h"
#include "tracking/userfault.h"

namespace relive::tracking {

namespace {

// A page to write to. Its neighbours are not accessible, so that nothing merges with it.
class ProofPage {
 public:
  ProofPage() {
    void* at = ::mmap(nullptr, 3 * kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return;
    base_ = static_cast<char*>(at);
    if (::mprotect(page(), kPageSize, PROT_READ | PROT_WRITE) == 0) usable_ = true;
    if (usable_) write();
  }
  ProofPage(const ProofPage&) = delete;
  ProofPage& operator=(const ProofPage&) = delete;
  ~ProofPage() {
    if (base_ != nullptr) ::munmap(base_, 3 * kPageSize);
  }
  [[nodiscard]] bool usable() const { return usable_; }
  [[nodiscard]] AddressRange range() const {
    const auto begin = reinterpret_cast<std::uint64_t>(page());
    return {begin, begin + kPageSize};
  }
  void write() { *const_cast<volatile char*>(page()) = static_cast<char>(*page() + 1); }

 private:
  [[nodiscard]] char* page() const { return base_ + kPageSize; }
  char* base_ = nullptr;
  bool usable_ = false;
};

model::Pid ourselves() { return {::getpid()}; }

Result<void> prove_uffd(ProofPage& page) {
  UniqueFd userfault(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!userfault)
    userfault.reset(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
  if (!userfault) return fail_errno("userfaultfd", "");
  RELIVE_TRY(enable_async_protection(userfault.get()));
  const Pagemap pagemap = RELIVE_TRY(Pagemap::open(ourselves()));
  if (!pagemap.can_scan()) return fail(ErrorKind::unsupported, "PAGEMAP_SCAN is not in this kernel");
  if (const int error_number = register_range(userfault.get(), page.range()); error_number != 0)
    return fail_errno("ioctl UFFDIO_REGISTER", "", error_number);
  if (!RELIVE_TRY(pagemap.protect(page.range())).all_tracked)
    return fail(ErrorKind::unsupported, "a registered page is not tracked");
  const PageQuery written{.inverted = 0, .all = PageIs::written, .any = 0, .wanted = PageIs::written};
  if (!RELIVE_TRY(pagemap.scan({page.range()}, written)).empty())
    return fail(ErrorKind::unsupported, "an armed page shows as written");
  page.write();
  if (RELIVE_TRY(pagemap.scan({page.range()}, written)).empty())
    return fail(ErrorKind::unsupported, "a write was not noted");
  return {};
}

Result<void> prove_soft_dirty(ProofPage& page) {
  const Pagemap pagemap = RELIVE_TRY(Pagemap::open(ourselves()));
  RELIVE_TRY(task::write_proc(ourselves(), "clear_refs", "4"));
  const auto dirty = [&]() -> Result<bool> {
    return (RELIVE_TRY(pagemap.entries(page.range()))[0] & PagemapBit::soft_dirty) != 0;
  };
  if (RELIVE_TRY(dirty())) return fail(ErrorKind::unsupported, "an armed page shows as written");
  page.write();
  if (!RELIVE_TRY(dirty()))
    return fail(ErrorKind::unsupported,
                "the kernel accepts clear_refs and never sets the bit (no CONFIG_MEM_SOFT_DIRTY)");
  return {};
}

TrackerProof proof_of(TrackerKind kind, Result<void> (*prove)(ProofPage&), std::string seen) {
  ProofPage page;
  if (!page.usable()) return {.kind = kind, .works = false, .reason = "no memory for the proof"};
  const auto proven = prove(page);
  return {.kind = kind, .works = proven.has_value(), .reason = proven ? std::move(seen) : proven.error().text()};
}

}  // namespace

std::vector<TrackerProof> prove_trackers() {
  return {proof_of(TrackerKind::uffd, prove_uffd, "a write to an armed page was noted"),
          proof_of(TrackerKind::soft_dirty, prove_soft_dirty, "a write to an armed page was noted"),
          {.kind = TrackerKind::compare, .works = true, .reason = "needs nothing of the kernel"}};
}

}  // namespace relive::tracking
