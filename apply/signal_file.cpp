#include <fmt/format.h>
#include <sys/syscall.h>

#include "apply/self_contained.h"

namespace relive::apply {

Result<void> make(FileMaker& maker, std::size_t file, const model::SignalFile& wanted) {
  const auto mask = RELIVE_TRY(maker.visit().arena().put_value(wanted.mask));
  return maker.make_one(file, "signalfd", SYS_signalfd, {~std::uint64_t{0}, mask.value, sizeof wanted.mask});
}

// signalfd(2) on a number that has one changes its mask.
Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t /*flags*/, const model::SignalFile& wanted,
                       const model::SignalFile& /*living*/) {
  const auto mask = RELIVE_TRY(maker.visit().arena().put_value(wanted.mask));
  maker.commit(fmt::format("signalfd {}: mask {:x}", fd.value, wanted.mask), SYS_signalfd,
               {FileMaker::number(fd), mask.value, sizeof wanted.mask});
  return {};
}

}  // namespace relive::apply
