// Filling pipes with their unread bytes, in packets where they were in packets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "apply/file_maker.h"
#include "base/result.h"
#include "model/files.h"

namespace relive::apply {

struct PipeContents {
  std::span<const std::byte> bytes;
  std::span<const model::PipePiece> pieces;  // none: all is one stream
};

// prepare: fills a new, empty pipe through our duplicate of its write end.
Result<void> fill_pipe(int writer, const PipeContents& contents);

// commit: fills an empty pipe through the number `write_end`, which ends up with the status flags `flags`.
Result<void> refill_pipe(FileMaker& maker, model::RemoteFd write_end, std::uint32_t flags,
                         const PipeContents& contents);

}  // namespace relive::apply
