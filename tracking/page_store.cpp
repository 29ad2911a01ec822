#include "tracking/page_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "parasite/remains.h"
#include "tracking/slots.h"

namespace relive::tracking {

namespace {

constexpr std::uint64_t kFirstPages = 16384;  // 64 MiB of address space; memory is taken as pages are saved
constexpr std::uint64_t kBatchPages = 256;    // stays in the processor's cache between reading and writing
constexpr std::uint64_t kPopulateRead = 22;   // MADV_POPULATE_READ, Linux 5.14
constexpr std::uint64_t kSparePages =
    4096;  // free slots that keep their memory: taking it back and forth costs 10 us a page

bool all_zero(const std::byte* page) {
  return page[0] == std::byte{0} && std::memcmp(page, page + 1, kPageSize - 1) == 0;
}

Result<void> write_at(int fd, std::span<const std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return fail_errno("pwrite", "the page store");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
  return {};
}

// Reads the pages of `pieces`, one behind the other. One call for all of them; page by page where that fails, since
// memory that the task may not read is reached only that way (FrozenTask::read).
Result<void> read_pieces(const task::FrozenTask& task, std::span<const AddressRange> pieces,
                         std::span<std::byte> into) {
  std::vector<iovec> there;
  for (const AddressRange& piece : pieces) there.push_back({reinterpret_cast<void*>(piece.begin), piece.size()});
  const iovec here{into.data(), into.size()};
  const ssize_t got = ::process_vm_readv(task.pid().value, &here, 1, there.data(), there.size(), 0);
  if (got == static_cast<ssize_t>(into.size())) return {};
  for (const AddressRange& piece : pieces) {
    for (std::uint64_t page = piece.begin; page < piece.end; page += kPageSize) {
      RELIVE_TRY(with_context(task.read({page}, into.first(kPageSize)), "saving a page"));
      into = into.subspan(kPageSize);
    }
  }
  return {};
}

// Gives out slots one after the other from the runs that were taken.
class SlotTape {
 public:
  explicit SlotTape(std::vector<SlotRun> runs) : runs_(std::move(runs)) {}
  [[nodiscard]] Slot peek() const { return runs_[index_].slot; }
  [[nodiscard]] std::uint64_t contiguous() const { return runs_[index_].pages; }
  void advance(std::uint64_t pages) {
    runs_[index_].slot += pages;
    runs_[index_].pages -= pages;
    if (runs_[index_].pages == 0) ++index_;
  }
  [[nodiscard]] std::span<const SlotRun> left() const { return std::span(runs_).subspan(index_); }

 private:
  std::vector<SlotRun> runs_;
  std::size_t index_ = 0;
};

void append(std::vector<PageRun>& runs, PageRun run) {
  if (!runs.empty() && runs.back().range().end == run.address && runs.back().slot + runs.back().pages == run.slot)
    runs.back().pages += run.pages;
  else
    runs.push_back(run);
}

}  // namespace

struct PageStore::State {
  UniqueFd memfd;
  std::byte* here = nullptr;
  model::TaskAddress there;
  Slots slots;

  Ranges spare;  // free slots that still have memory and are faulted in everywhere; as offsets in the memfd

  [[nodiscard]] std::uint64_t bytes() const { return slots.size() * kPageSize; }

  static Ranges offsets_of(std::span<const SlotRun> runs) {
    std::vector<AddressRange> out;
    for (const SlotRun& run : runs) out.push_back({run.slot * kPageSize, (run.slot + run.pages) * kPageSize});
    return normalize(std::move(out));
  }

  // Takes one use away from each slot.
  void free(std::span<const SlotRun> runs) {
    spare = unite(spare, offsets_of(slots.release(runs)));
    if (count_pages(spare) <= kSparePages) return;
    for (const AddressRange& range : spare)
      ::fallocate(memfd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.begin),
                  static_cast<off_t>(range.size()));
    spare.clear();
  }

  // Copies the pages of one batch. `pieces` are in order, together at most kBatchPages.
  Result<void> save_batch(const Reader& read, std::span<const AddressRange> pieces, const Ranges& zero_backed,
                          std::span<std::byte> buffer, SlotTape& tape, std::vector<PageRun>& out) const;
};

Result<void> PageStore::State::save_batch(const Reader& read, std::span<const AddressRange> pieces,
                                          const Ranges& zero_backed, std::span<std::byte> buffer, SlotTape& tape,
                                          std::vector<PageRun>& out) const {
  std::uint64_t total = 0;
  for (const AddressRange& piece : pieces) total += piece.size();
  buffer = buffer.first(total);
  RELIVE_TRY(read(pieces, buffer));
  for (const AddressRange& piece : pieces) {
    const Ranges may_skip = intersect({piece}, zero_backed);
    std::size_t skip = 0;
    std::uint64_t page = piece.begin;
    const auto skippable = [&](std::uint64_t address) {
      while (skip < may_skip.size() && may_skip[skip].end <= address) ++skip;
      return skip < may_skip.size() && may_skip[skip].contains(address) &&
             all_zero(buffer.data() + (address - piece.begin));
    };
    while (page < piece.end) {
      if (skippable(page)) {
        page += kPageSize;
        continue;
      }
      std::uint64_t end = page + kPageSize;
      while (end < piece.end && (end - page) / kPageSize < tape.contiguous() && !skippable(end)) end += kPageSize;
      const std::uint64_t pages = (end - page) / kPageSize;
      RELIVE_TRY(write_at(memfd.get(), buffer.subspan(page - piece.begin, end - page), tape.peek() * kPageSize));
      append(out, {page, pages, tape.peek()});
      tape.advance(pages);
      page = end;
    }
    buffer = buffer.subspan(piece.size());
  }
  return {};
}

PageStore::PageStore(std::unique_ptr<State> state) : state_(std::move(state)) {}
PageStore::PageStore(PageStore&&) noexcept = default;
PageStore::~PageStore() {
  if (state_ && state_->here != nullptr) ::munmap(state_->here, state_->bytes());
}

Result<PageStore> PageStore::create(parasite::Visit& visit) {
  std::array<std::byte, 16> name{};
  static_assert(parasite::kPagesName.size() < name.size());
  std::memcpy(name.data(), parasite::kPagesName.data(), parasite::kPagesName.size());
  const model::TaskAddress name_address = RELIVE_TRY(visit.arena().put(name));
  const model::TaskAddress spare = RELIVE_TRY(visit.spare_range(kFirstPages * kPageSize));

  PageStore store(std::make_unique<State>());
  State& state = *store.state_;
  // The keeper may die before it is closed.
  for (const model::RemoteFd number : RELIVE_TRY(visit.next_descriptors(1)))
    RELIVE_TRY(visit.record_undo("close the page store", SYS_close, {static_cast<std::uint64_t>(number.value)}));
  const auto fd =
      RELIVE_TRY(visit.syscall("memfd_create relive-pages", SYS_memfd_create, {name_address.value, MFD_CLOEXEC}));
  const auto fill = [&]() -> Result<void> {
    state.memfd = RELIVE_TRY(visit.task().borrow(model::RemoteFd{static_cast<int>(fd)}));
    if (::ftruncate(state.memfd.get(), static_cast<off_t>(kFirstPages * kPageSize)) != 0)
      return fail_errno("ftruncate", "the page store");
    void* here = ::mmap(nullptr, kFirstPages * kPageSize, PROT_READ, MAP_SHARED, state.memfd.get(), 0);
    if (here == MAP_FAILED) return fail_errno("mmap", "the page store");
    state.here = static_cast<std::byte*>(here);
    state.slots.grow(kFirstPages);
    RELIVE_TRY(visit.syscall("mmap the page store", SYS_mmap,
                             {spare.value, kFirstPages * kPageSize, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE,
                              static_cast<std::uint64_t>(fd), 0}));
    state.there = spare;
    return {};
  };
  const auto filled = fill();
  RELIVE_TRY(visit.syscall("close the page store", SYS_close, {static_cast<std::uint64_t>(fd)}));
  if (!filled) return std::unexpected(filled.error());
  visit.session().add_own_range(store.window());
  RELIVE_TRY(store.mark(visit));
  return store;
}

Result<void> PageStore::mark(parasite::Visit& visit) {
  parasite::Program marks;
  marks.syscall("keep the page store out of children", SYS_madvise,
                {state_->there.value, state_->bytes(), MADV_DONTFORK});
  marks.syscall("keep the page store out of core dumps", SYS_madvise,
                {state_->there.value, state_->bytes(), MADV_DONTDUMP}, parasite::Program::OnError::go_on);
  const auto marked = visit.run(marks);
  if (marked) return {};
  RELIVE_TRY(leave(visit));
  return marked;
}

Result<void> PageStore::enter(parasite::Visit& visit) {
  const std::uint64_t bytes = state_->bytes();
  const model::TaskAddress spare = RELIVE_TRY(visit.spare_range(bytes));
  const model::RemoteFd number = RELIVE_TRY(visit.spare_descriptor());
  const auto fd = static_cast<std::uint64_t>(number.value);
  RELIVE_TRY(visit.record_undo("close the page store", SYS_close, {fd}));
  RELIVE_TRY(visit.give(state_->memfd.get(), number));
  const auto mapped = visit.syscall("mmap the page store", SYS_mmap,
                                    {spare.value, bytes, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0});
  RELIVE_TRY(visit.syscall("close the page store", SYS_close, {fd}));
  visit.note_closed(number);
  if (!mapped) return std::unexpected(mapped.error());
  state_->there = spare;
  visit.session().add_own_range(window());
  return mark(visit);
}

void PageStore::task_ended() { state_->there = {}; }

Result<void> PageStore::grow(parasite::Visit& visit, std::uint64_t slots) {
  State& state = *state_;
  std::uint64_t size = state.slots.size();
  while (size < slots) size *= 2;
  const std::uint64_t bytes = size * kPageSize;
  if (::ftruncate(state.memfd.get(), static_cast<off_t>(bytes)) != 0) return fail_errno("ftruncate", "the page store");
  const AddressRange was = window();
  const auto there = RELIVE_TRY(
      visit.syscall("mremap the page store", SYS_mremap, {state.there.value, state.bytes(), bytes, MREMAP_MAYMOVE}));
  visit.session().remove_own_range(was);
  void* here = ::mremap(state.here, state.bytes(), bytes, MREMAP_MAYMOVE);
  const int error_number = errno;
  if (here == MAP_FAILED) {
    // The window in the task stays larger than what we use: harmless, and leave() must find all of it.
    RELIVE_TRY(visit.syscall("mremap the page store", SYS_mremap,
                             {static_cast<std::uint64_t>(there), bytes, state.bytes(), 0}));
  } else {
    state.here = static_cast<std::byte*>(here);
    state.slots.grow(size);
  }
  state.there = {static_cast<std::uint64_t>(there)};
  visit.session().add_own_range(window());
  if (here == MAP_FAILED) return fail_errno("mremap", "the page store", error_number);
  return {};
}

Result<std::vector<PageRun>> PageStore::save(parasite::Visit& visit, const Ranges& ranges, const Ranges& zero_backed) {
  return take_in(visit, ranges, zero_backed, [&](std::span<const AddressRange> pieces, std::span<std::byte> into) {
    return read_pieces(visit.task(), pieces, into);
  });
}

Result<std::vector<PageRun>> PageStore::take_in(parasite::Visit& visit, const Ranges& ranges, const Ranges& zero_backed,
                                                const Reader& read) {
  const std::uint64_t pages = count_pages(ranges);
  if (pages == 0) return std::vector<PageRun>{};
  if (state_->slots.free_pages() < pages) RELIVE_TRY(grow(visit, state_->slots.used() + pages));
  const std::vector<SlotRun> taken = state_->slots.take(pages);
  const Ranges offsets = State::offsets_of(taken);
  const Ranges fresh = subtract(offsets, state_->spare);
  state_->spare = subtract(state_->spare, offsets);
  SlotTape tape(taken);
  std::vector<PageRun> out;
  std::vector<std::byte> buffer(std::min(pages, kBatchPages) * kPageSize);
  std::vector<AddressRange> batch;
  std::uint64_t batched = 0;
  Result<void> saved;
  const auto flush = [&] {
    saved = state_->save_batch(read, batch, zero_backed, buffer, tape, out);
    batch.clear();
    batched = 0;
  };
  for (AddressRange rest : ranges) {
    while (!rest.empty() && saved) {
      const std::uint64_t part = std::min(rest.pages(), kBatchPages - batched);
      batch.push_back({rest.begin, rest.begin + part * kPageSize});
      batched += part;
      rest.begin += part * kPageSize;
      if (batched == kBatchPages) flush();
    }
  }
  if (saved && batched > 0) flush();
  if (!saved) {
    state_->free(taken);
    return std::unexpected(saved.error());
  }
  const Ranges left = State::offsets_of(tape.left());
  state_->free(tape.left());

  parasite::Program prefault;
  for (const AddressRange& range : subtract(fresh, left))
    prefault.syscall("fault the page store in", SYS_madvise,
                     {state_->there.value + range.begin, range.size(), kPopulateRead},
                     parasite::Program::OnError::go_on);
  if (!prefault.empty()) RELIVE_TRY(visit.run(prefault));
  return out;
}

void PageStore::retain(std::span<const PageRun> runs) {
  for (const PageRun& run : runs) state_->slots.retain({run.slot, run.pages});
}

void PageStore::release(std::span<const PageRun> runs) {
  std::vector<SlotRun> slots;
  for (const PageRun& run : runs) slots.push_back({run.slot, run.pages});
  state_->free(slots);
}

std::span<const std::byte> PageStore::bytes(Slot slot, std::uint64_t pages) const {
  return {state_->here + slot * kPageSize, pages * kPageSize};
}

model::TaskAddress PageStore::address_in_task(Slot slot) const { return state_->there + slot * kPageSize; }
std::uint64_t PageStore::pages_used() const { return state_->slots.used(); }
AddressRange PageStore::window() const { return {state_->there.value, state_->there.value + state_->bytes()}; }

Result<void> PageStore::leave(parasite::Visit& visit) {
  if (state_->there.value == 0) return {};
  RELIVE_TRY(visit.syscall("munmap the page store", SYS_munmap, {state_->there.value, state_->bytes()}));
  visit.session().remove_own_range(window());
  return {};
}

}  // namespace relive::tracking
