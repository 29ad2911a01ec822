// Open files that travel with unread unix messages (SCM_RIGHTS, unix(7)). Looking at a message gives duplicates of them
// and takes nothing. Part of capture/descriptors.h.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "capture/holds.h"
#include "capture/survey.h"

namespace relive::capture {

// Which open file of the table is it? Called with each duplicate in turn.
using Identify = std::function<Result<std::size_t>(UniqueFd)>;
// For who does not want to know.
inline Result<std::size_t> disregard(UniqueFd /*ours*/) { return std::size_t{0}; }

// Tells the open files of a table from each other. One that is under no number of the tree is added to the table: it
// is in flight only. Files that a rollback could not send again are added as unhandled ones.
class FilesInFlight {
 public:
  explicit FilesInFlight(const Survey& survey) : survey_(survey) {}
  Result<std::size_t> identify(UniqueFd ours);

 private:
  Result<model::OpenFile> describe(int ours) const;
  const Survey& survey_;
  std::vector<std::pair<std::size_t, UniqueFd>> unnumbered_;
};

// Takes the keeper's own duplicates of what is in flight only. REQUIRES: the tasks have stayed frozen since `table`
// was read.
Result<void> hold_files_in_flight(std::span<parasite::Visit* const> tables, const model::DescriptorTable& table,
                                  FileHolds& holds);

}  // namespace relive::capture
