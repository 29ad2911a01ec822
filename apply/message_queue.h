// How the descriptor of a message queue (model/message_queue.h) is put right.
#pragma once

#include <cstdint>

#include "apply/file_maker.h"
#include "base/result.h"
#include "model/message_queue.h"

namespace relive::apply {

// A commit operation that takes back the notification that the task has asked for since. REQUIRES: wanted has none
// (capture::unhandled refuses a snapshot with one).
Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t flags, const model::MessageQueue& wanted,
                       const model::MessageQueue& living);

}  // namespace relive::apply
