// POSIX message queues (mq_overview(7)). A queue has a name in the system, as a file has: what is in it is no part of a
// snapshot, the descriptor is.
#pragma once

#include <cstdint>
#include <string>

#include "model/files.h"
#include "model/words.h"

namespace relive::model {

struct MessageQueue {
  std::string path;  // "/name", as mq_open(3) takes it; " (deleted)" behind it when it was unlinked
  FileIdentity identity;
  std::int64_t position = 0;  // of read(2), which tells the queue's status
  bool notifies = false;      // a task of the tree is told when a message comes (mq_notify(3)) ...
  int notified = 0;           // ... the one with this table (RemoteFd::table)
  bool operator==(const MessageQueue&) const = default;
};
Words words(const MessageQueue& queue);

}  // namespace relive::model
