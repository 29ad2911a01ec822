#include "apply/named_pipes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>

#include <cerrno>

#include "apply/pipes.h"
#include "base/fault.h"

namespace relive::apply {

namespace {

using model::NamedPipe;

// O_NONBLOCK: nobody is waited for. What else F_SETFL can set is set by the caller.
UniqueFd open_end(int reference, int mode) {
  return UniqueFd(::open(fmt::format("/proc/self/fd/{}", reference).c_str(), mode | O_NONBLOCK | O_CLOEXEC));
}

Result<int> reference_of(FileMaker& maker, const model::OpenFile& wanted, std::size_t file) {
  const auto found = maker.workshop().files.references.find(file);
  if (found != maker.workshop().files.references.end()) return found->second.get();
  return fail(ErrorKind::refused, fmt::format("nothing leads to {} any more", model::describe(wanted)));
}

std::unexpected<Error> may_not(const model::OpenFile& wanted, int error) {
  if (error != EACCES) return fail_errno("open anew", model::describe(wanted), error);
  return fail(ErrorKind::refused,
              fmt::format("{} has to be opened again, and may not be any more", model::describe(wanted)),
              "see its mode and owner");
}

// Grows in prepare, where it can fail and be undone; shrinks in the commit, when the pipe is empty.
Result<void> set_capacity(FileMaker& maker, int ours, model::RemoteFd now, model::RemoteFd then,
                          const NamedPipe& wanted) {
  const int living = ::fcntl(ours, F_GETPIPE_SZ);
  if (living < 0) return fail_errno("fcntl F_GETPIPE_SZ", wanted.path);
  const auto before = static_cast<std::uint64_t>(living);
  if (before > wanted.capacity) {
    maker.commit(fmt::format("capacity of pipe {}", then.value), SYS_fcntl,
                 {FileMaker::number(then), F_SETPIPE_SZ, wanted.capacity});
  } else if (before < wanted.capacity) {
    RELIVE_TRY(fault_point("capacity of a named pipe"));
    RELIVE_TRY(maker.visit().record_undo(fmt::format("capacity of pipe {} back", now.value), SYS_fcntl,
                                         {FileMaker::number(now), F_SETPIPE_SZ, before}));
    RELIVE_TRY(maker.visit().syscall(fmt::format("capacity of pipe {}", now.value), SYS_fcntl,
                                     {FileMaker::number(now), F_SETPIPE_SZ, wanted.capacity}));
  }
  return {};
}

}  // namespace

Result<void> carry_out(FileMaker& maker, const model::OpenFile& wanted, const diff::OpenNamedPipe& op) {
  const auto& pipe = std::get<NamedPipe>(wanted.object);
  const int reference = RELIVE_TRY(reference_of(maker, wanted, op.file));
  // A writer finds a reader so; and a reader will see that its writer is gone, as it did or could have (poll(2)): one
  // that is opened while nobody writes awaits the first writer (fifo_open() in fs/pipe.c, Linux 6.18).
  const UniqueFd both = pipe.awaits_writer ? UniqueFd() : open_end(reference, O_RDWR);
  const UniqueFd ours = open_end(reference, static_cast<int>(wanted.status_flags & O_ACCMODE));
  if (!ours) return may_not(wanted, errno);
  return maker.give(op.file, ours.get());
}

Result<void> carry_out(FileMaker& maker, const model::OpenFile& wanted, const diff::RefillNamedPipe& op) {
  const auto& pipe = std::get<NamedPipe>(wanted.object);
  const model::RemoteFd now = op.from ? *op.from : maker.spare(op.file);
  model::RemoteFd through = op.to;
  std::uint32_t flags = wanted.status_flags;
  if (op.through_helper) {
    const UniqueFd both = open_end(RELIVE_TRY(reference_of(maker, wanted, op.file)), O_RDWR);
    if (!both) return may_not(wanted, errno);
    const std::size_t helper = maker.helper();
    RELIVE_TRY(maker.give(helper, both.get()));
    through = maker.spare(helper);
    flags = O_RDWR | O_NONBLOCK;
  }
  RELIVE_TRY(maker.drain(through, flags));
  const UniqueFd ours = RELIVE_TRY(maker.visit().task().borrow(now));
  RELIVE_TRY(set_capacity(maker, ours.get(), now, op.to, pipe));
  return refill_pipe(maker, through, flags, {.bytes = pipe.bytes, .pieces = pipe.pieces});
}

}  // namespace relive::apply
