// Filling pipes with their unread bytes, in packets where they were in packets.
#pragma once

#include <cstdint>

#include "apply/file_maker.h"
#include "base/result.h"
#include "model/files.h"

namespace relive::apply {

// prepare: fills a new, empty pipe through our duplicate of its write end.
Result<void> fill_pipe(int writer, const model::PipeEnd& pipe);

// commit: fills an empty pipe through the number `write_end`, which ends up with the status flags `flags`.
Result<void> refill_pipe(FileMaker& maker, model::RemoteFd write_end, std::uint32_t flags, const model::PipeEnd& pipe);

}  // namespace relive::apply
