#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "apply/self_contained.h"

namespace relive::apply {

Result<void> make(FileMaker& maker, std::size_t file, const model::EventCounter& wanted) {
  const std::uint64_t flags = EFD_CLOEXEC | (wanted.semaphore ? EFD_SEMAPHORE : 0);
  RELIVE_TRY(maker.make_one(file, "eventfd", SYS_eventfd2, {0, flags, 0}));
  if (wanted.count == 0) return {};
  const UniqueFd ours = RELIVE_TRY(maker.borrow(file));
  if (::write(ours.get(), &wanted.count, sizeof wanted.count) != sizeof wanted.count)
    return fail_errno("write", "a new eventfd");
  return {};
}

Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t flags, const model::EventCounter& wanted,
                       const model::EventCounter& /*living*/) {
  RELIVE_TRY(maker.drain(fd, flags));
  if (wanted.count == 0) return {};
  const auto there = RELIVE_TRY(maker.visit().arena().put_value(wanted.count));
  maker.commit(fmt::format("write {} to eventfd {}", wanted.count, fd.value), SYS_write,
               {FileMaker::number(fd), there.value, sizeof wanted.count});
  return {};
}

}  // namespace relive::apply
