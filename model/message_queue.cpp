#include "model/message_queue.h"

namespace relive::model {

Words words(const MessageQueue& queue) {
  return {.kind = "message queue", .detail = queue.path, .phrase = "message queue " + queue.path};
}

}  // namespace relive::model
