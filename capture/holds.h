// The keeper's own references to what a task cannot be asked for again (design, section 8: only what it cannot notice).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "base/unique_fd.h"

namespace relive::capture {

// Of the open files, which the tasks of a tree share.
struct FileHolds {
  std::map<std::size_t, UniqueFd> open_files;  // index in the snapshot's DescriptorTable::open_files
  std::map<std::size_t, UniqueFd> references;  // the same, O_PATH: of what is opened anew; of a unix socket with a
                                               // relative name: where that counts from
  std::map<std::size_t, UniqueFd> contents;    // the same: copies of what memfds held
};

// Of one task.
struct Holds {
  std::map<std::uint64_t, UniqueFd> mapped_files;  // begin of the snapshot's mapping
  UniqueFd executable;                             // O_PATH: what a task made again executes (execveat(2))
  std::vector<std::byte> auxiliary_vector;         // as the kernel gave it to the program (/proc/PID/auxv)
  UniqueFd cwd;                                    // O_PATH
  UniqueFd root;                                   // O_PATH
};

}  // namespace relive::capture
