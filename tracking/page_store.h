// The page store: one memfd per memory, written by the keeper, mapped read-only in the task.
//
// Pages are written with pwrite(2), not through a mapping: a new page of shared memory then costs no fault and is not
// zeroed first, and a full machine answers with an error instead of SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "model/ids.h"
#include "parasite/session.h"
#include "tracking/page_map.h"

namespace relive::tracking {

class PageStore {
 public:
  // Makes the memfd ("relive-pages") inside the task, so that it is its user's, takes it over, maps it in both, closes
  // it in the task. The window in the task becomes one of the session's own ranges and does not survive a fork(2).
  // After a failure nothing is left in the task.
  static Result<PageStore> create(parasite::Visit& visit);
  PageStore(PageStore&&) noexcept;
  PageStore& operator=(PageStore&&) = delete;
  ~PageStore();

  // Copies the task's pages in `ranges` into the store. All-zero pages inside `zero_backed` (populated.h) are left out:
  // a map without them says the same. Returns the runs, ascending; nobody uses them yet: retain() them, or release()
  // them to give them up. The task's window is faulted in, so that a rollback need not. On failure the store is as
  // before. May move the window (address_in_task) when the store has to grow.
  Result<std::vector<PageRun>> save(parasite::Visit& visit, const Ranges& ranges, const Ranges& zero_backed = {});

  // The same for pages that come from elsewhere: `read` fills in those of `pieces`, one behind the other.
  using Reader = std::function<Result<void>(std::span<const AddressRange> pieces, std::span<std::byte> into)>;
  Result<std::vector<PageRun>> take_in(parasite::Visit& visit, const Ranges& ranges, const Ranges& zero_backed,
                                       const Reader& read);

  // One more / one fewer map uses these slots. A slot that loses its last user is free; its memory is given back, but
  // for a few MiB. Retain the new before you release the old.
  void retain(std::span<const PageRun> runs);
  void release(std::span<const PageRun> runs);

  // The page's bytes, in the keeper; and its address in the task. Valid until the next save().
  [[nodiscard]] std::span<const std::byte> bytes(Slot slot, std::uint64_t pages = 1) const;
  [[nodiscard]] model::TaskAddress address_in_task(Slot slot) const;
  [[nodiscard]] std::uint64_t pages_used() const;
  [[nodiscard]] AddressRange window() const;

  // Maps the window into another task: one that takes the place of the task that had it. REQUIRES: task_ended(). After
  // a failure nothing is left in the task.
  Result<void> enter(parasite::Visit& visit);
  // The task that had the window is gone: nothing is mapped anywhere but here.
  void task_ended();

  // Unmaps the window from the task (relive drop).
  Result<void> leave(parasite::Visit& visit);

 private:
  struct State;
  explicit PageStore(std::unique_ptr<State> state);
  Result<void> mark(parasite::Visit& visit);
  Result<void> grow(parasite::Visit& visit, std::uint64_t slots);
  std::unique_ptr<State> state_;
};

}  // namespace relive::tracking
