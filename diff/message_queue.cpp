#include "diff/message_queue.h"

namespace relive::diff {

std::vector<std::string> changes(const model::MessageQueue& wanted, const model::MessageQueue& living) {
  if (wanted.notifies == living.notifies) return {};
  return {"notification asked for since"};
}

}  // namespace relive::diff
