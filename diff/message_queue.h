// What differs between a message queue's descriptor and itself (model/message_queue.h). Pure.
#pragma once

#include <string>
#include <vector>

#include "model/message_queue.h"

namespace relive::diff {

[[nodiscard]] std::vector<std::string> changes(const model::MessageQueue& wanted, const model::MessageQueue& living);

}  // namespace relive::diff
