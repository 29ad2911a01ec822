// Contents of regular files: a copy beside, and the way back in place.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace relive::files {

enum class Copied : std::uint8_t { shared, copied };  // shared: the file system keeps one set of blocks (reflink)

// Fills `to`, which is empty, with what is in `from`: by FICLONE where the file system has it, else by
// copy_file_range(2). Holes stay holes. `object` is for messages.
Result<Copied> copy_contents(int from, int to, std::uint64_t size, std::string_view object);

// Makes `living` what `copy` is: size, bytes and holes. Only blocks that differ are written, with pwrite(2) into the
// same inode, so that mappings of it see them. Both are read as far as they have data. Returns the bytes written.
// After a failure some blocks are back and others are not; calling it again goes on.
Result<std::uint64_t> put_back_contents(int living, int copy, std::string_view object);

}  // namespace relive::files
