// Writes an image directory.
//
// It is written beside its place, as DIR.partial, and renamed when it is whole; inventory.img, without which nobody
// takes it for an image, comes last. A failure takes the partial directory away.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "image/image.h"

namespace relive::image {

// Where the contents are.
class Contents {
 public:
  Contents() = default;
  Contents(const Contents&) = delete;
  Contents& operator=(const Contents&) = delete;
  virtual ~Contents() = default;

  struct Pages {
    std::uint64_t address = 0;
    std::span<const std::byte> bytes;  // whole pages
  };
  // All pages of a task with contents of their own, ascending, disjoint; those of the vDSO too. They stay where they
  // are while writing.
  [[nodiscard]] virtual std::vector<Pages> pages(std::size_t task) const = 0;
  // A descriptor of the caller's that reads what was in an open file without a name (a memfd, a deleted file), or -1.
  [[nodiscard]] virtual int open_file(std::size_t task, std::size_t index) const = 0;
  // The same for the file that is mapped at `begin`.
  [[nodiscard]] virtual int mapped_file(std::size_t task, std::uint64_t begin) const = 0;
};

struct WriteReport {
  std::uint64_t pages = 0;  // written
  std::uint64_t bytes = 0;  // of all files
};

// Called now and then with the bytes of contents written, and those there are. An error ends the writing.
using Progress = std::function<Result<void>(std::uint64_t done, std::uint64_t all)>;

// REQUIRES: `tasks` parents first, the root's process.parent is 0 or the pid of somebody outside. Fills in the ids that
// are 0 or missing. `directory` must not be there, or be empty.
Result<WriteReport> write_image(const std::string& directory, std::vector<ImagedTask> tasks, const Contents& contents,
                                const Progress& progress = {});

}  // namespace relive::image
