#include "parasite/agreement.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "base/fault.h"
#include "parasite/remains.h"

namespace relive::parasite {

namespace {
constexpr std::string_view kWhat = "the tree's agreement";

void store(std::uint32_t& word, std::uint32_t value) { __atomic_store_n(&word, value, __ATOMIC_RELEASE); }
}  // namespace

Result<TreeAgreement> TreeAgreement::create() {
  UniqueFd memfd(::memfd_create(std::string(kParasiteName).c_str(), MFD_CLOEXEC));
  if (!memfd) return fail_errno("memfd_create", kWhat);
  if (::ftruncate(memfd.get(), wire::kAgreementBytes) != 0) return fail_errno("ftruncate", kWhat);
  void* here = ::mmap(nullptr, wire::kAgreementBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0);
  if (here == MAP_FAILED) return fail_errno("mmap", kWhat);
  return TreeAgreement(std::move(memfd), static_cast<wire::Agreement*>(here));
}

TreeAgreement::TreeAgreement(TreeAgreement&& other) noexcept
    : memfd_(std::move(other.memfd_)), here_(std::exchange(other.here_, nullptr)) {}

TreeAgreement::~TreeAgreement() {
  if (here_ != nullptr) ::munmap(here_, wire::kAgreementBytes);
}

Result<void> TreeAgreement::join(Visit& visit) {
  if (visit.session().takes_part()) return {};
  RELIVE_TRY(fault_point("join the tree's agreement"));
  const model::RemoteFd spare = RELIVE_TRY(visit.spare_descriptor());
  const auto number = static_cast<std::uint64_t>(spare.value);
  RELIVE_TRY(visit.record_undo("close the agreement", SYS_close, {number}));
  RELIVE_TRY(visit.give(memfd_.get(), spare));
  const std::uint64_t there = visit.session().agreement_address().value;
  Program program;
  program.syscall("mmap the agreement", SYS_mmap,
                  {there, wire::kAgreementBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, number, 0});
  program.syscall("keep the agreement out of children", SYS_madvise, {there, wire::kAgreementBytes, MADV_DONTFORK});
  program.syscall("keep the agreement out of core dumps", SYS_madvise, {there, wire::kAgreementBytes, MADV_DONTDUMP});
  program.syscall("close the agreement", SYS_close, {number});
  RELIVE_TRY(visit.run(program));
  visit.note_closed(spare);
  visit.session().take_part();
  return {};
}

void TreeAgreement::open(std::uint32_t tasks) {
  store(here_->decided, 0);
  store(here_->broken, 0);
  store(here_->remaining, tasks);
}
void TreeAgreement::decide() { store(here_->decided, 1); }
void TreeAgreement::all_done() { store(here_->remaining, 0); }
void TreeAgreement::broken() { store(here_->broken, 1); }

}  // namespace relive::parasite
