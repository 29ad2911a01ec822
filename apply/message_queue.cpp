#include "apply/message_queue.h"

#include <fmt/format.h>
#include <sys/syscall.h>

namespace relive::apply {

Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t /*flags*/, const model::MessageQueue& wanted,
                       const model::MessageQueue& living) {
  // Harmless where a message has used it up meanwhile.
  if (living.notifies && !wanted.notifies)
    maker.commit(fmt::format("mq_notify {}", fd.value), SYS_mq_notify, {FileMaker::number(fd), 0});
  return {};
}

}  // namespace relive::apply
