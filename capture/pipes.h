// What waits unread in a pipe. Part of capture/descriptors.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "model/files.h"

namespace relive::capture {

struct UnreadInPipe {
  std::vector<std::byte> bytes;
  std::vector<model::PipePiece> pieces;  // where there are packets among them
};

// What can be read from our duplicate `read_end`, and stays unread. `packets`: its writer writes packets (O_DIRECT).
Result<UnreadInPipe> peek_pipe(int read_end, bool packets, std::uint32_t capacity);

// How many bytes wait; of either end.
Result<std::size_t> unread_in(int end);

}  // namespace relive::capture
