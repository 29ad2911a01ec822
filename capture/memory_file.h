// What a memfd holds, read through a descriptor of ours. Nothing is changed, not even the position.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "model/files.h"

namespace relive::capture {

// Of a descriptor of ours that leads to a memfd, in whatever mode. It takes about a millisecond for 4 MiB.
Result<model::MemoryFile> read_memory_file(int ours);

// Is it on hugetlbfs (memfd_create with MFD_HUGETLB, or a file there)?
[[nodiscard]] bool is_huge_page_file(int ours);

// A copy of its own of what the memfd holds, holes left out; invalid where nothing can change and nothing need be
// copied (F_SEAL_WRITE).
Result<UniqueFd> copy_memory_file(int ours, const model::MemoryFile& file);

// Why such a memfd is refused at the snapshot: "with 70 MiB of contents; ..."; empty if it is not.
[[nodiscard]] std::string why_not(const model::MemoryFile& file);

// Calls `look` with the offset and the bytes of each piece of data that either file has, page-aligned, at most 64 KiB
// long: what the first and what the second has there, zeros where it has a hole or has ended. `second` may be -1.
Result<void> for_each_piece(
    int first, int second, std::int64_t end,
    const std::function<void(std::int64_t, std::span<const std::byte>, std::span<const std::byte>)>& look);

// A descriptor of ours for reading, or for reading and writing, of the file that `ours` leads to, however that was
// opened.
Result<UniqueFd> open_again(int ours, bool writable);

}  // namespace relive::capture
