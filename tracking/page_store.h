// The page store: one memfd per memory, written by the keeper, mapped read-only in the task.
#pragma once

#include <cstddef>
#include <cstdint>
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
  // Makes the memfd inside the task (so that it is the task's user's), takes it over, maps it in both.
  static Result<PageStore> create(parasite::Visit& visit);
  PageStore(PageStore&&) noexcept;
  PageStore& operator=(PageStore&&) = delete;
  ~PageStore();

  // Copies the task's pages in `ranges` into the store; all-zero pages of private anonymous memory may be left out (the
  // caller's map then lacks them). Returns the runs, ascending. On failure the store is as before.
  Result<std::vector<PageRun>> save(parasite::Visit& visit, const Ranges& ranges);
  // One more / one fewer map uses these slots; slots that nobody uses are reused and their memory given back.
  void retain(std::span<const PageRun> runs);
  void release(std::span<const PageRun> runs);

  // The page's bytes, in the keeper; and its address in the task.
  [[nodiscard]] std::span<const std::byte> bytes(Slot slot, std::uint64_t pages = 1) const;
  [[nodiscard]] model::TaskAddress address_in_task(Slot slot) const;
  [[nodiscard]] std::uint64_t pages_used() const;

  // Unmaps the window from the task (relive drop).
  Result<void> leave(parasite::Visit& visit);

 private:
  struct State;
  explicit PageStore(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace relive::tracking
