#include "apply/locks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include <cerrno>
#include <fstream>
#include <iterator>
#include <string>

#include "base/fault.h"
#include "capture/locks.h"

namespace relive::apply {

namespace {

using diff::LockStep;
using model::LockKind;
using model::LockMode;
using model::RemoteFd;
using parasite::Program;

struct Call {
  long number;
  std::array<std::uint64_t, 3> arguments;
};

std::uint64_t type_of(LockMode mode) {
  return mode == LockMode::none ? F_UNLCK : mode == LockMode::read ? F_RDLCK : F_WRLCK;
}

// The system call that takes a step without waiting.
Result<Call> call_of(FileMaker& maker, RemoteFd fd, const LockStep& step) {
  const std::uint64_t number = FileMaker::number(fd);
  if (step.kind == LockKind::flock) {
    const std::uint64_t mode = step.mode == LockMode::none ? LOCK_UN : step.mode == LockMode::read ? LOCK_SH : LOCK_EX;
    return Call{.number = SYS_flock, .arguments = {number, mode | LOCK_NB, 0}};
  }
  if (step.kind == LockKind::lease)
    return Call{.number = SYS_fcntl, .arguments = {number, F_SETLEASE, type_of(step.mode)}};
  struct flock range{};
  range.l_type = static_cast<short>(type_of(step.mode));
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(step.first);
  range.l_len = step.last == model::kLockToEnd ? 0 : static_cast<off_t>(step.last - step.first + 1);
  const auto there = RELIVE_TRY(maker.visit().arena().put_value(range));
  const std::uint64_t command = step.kind == LockKind::posix ? F_SETLK : F_OFD_SETLK;
  return Call{.number = SYS_fcntl, .arguments = {number, command, there.value}};
}

std::string name(RemoteFd fd, const LockStep& step) { return fmt::format("{}: {}", fd.value, diff::text(step)); }

std::string proc_locks() {
  std::ifstream file("/proc/locks");
  return {std::istreambuf_iterator<char>(file), {}};
}

std::unexpected<Error> taken(const model::OpenFile& file, const LockStep& step) {
  return fail(
      ErrorKind::refused,
      fmt::format("{} had the {} at the snapshot, and somebody else keeps it from that now", model::describe(file),
                  model::text(model::FileLock{
                      .kind = step.kind, .mode = step.mode, .first = step.first, .last = step.last, .file = {}})),
      "end the other holder (see /proc/locks), or wait for it");
}

// flock(2) lets go of a shared lock before it asks for the exclusive one: asking in vain would lose it.
bool others_share(const model::OpenFile& file, const LockStep& before) {
  if (before.kind != LockKind::flock || before.mode == LockMode::none) return false;
  for (const model::FileLock& lock : file.locks)
    if (lock.kind == LockKind::flock) return capture::count_flocks(proc_locks(), lock.file) > 1;
  return false;
}

}  // namespace

Result<void> take_locks(FileMaker& maker, RemoteFd from, const model::OpenFile& file,
                        const std::vector<LockStep>& steps, const std::vector<LockStep>& back) {
  RELIVE_TRY(fault_point("take locks"));
  for (const LockStep& before : back) {
    if (others_share(file, before)) return taken(file, steps.front());
    const Call undo = RELIVE_TRY(call_of(maker, from, before));
    RELIVE_TRY(maker.visit().record_undo(name(from, before), undo.number,
                                         {undo.arguments[0], undo.arguments[1], undo.arguments[2]}));
  }
  for (const LockStep& step : steps) {
    const Call call = RELIVE_TRY(call_of(maker, from, step));
    Program program;
    const std::size_t asked =
        program.syscall(name(from, step), call.number, {call.arguments[0], call.arguments[1], call.arguments[2]},
                        Program::OnError::go_on);
    RELIVE_TRY(maker.visit().run(program));
    const std::int64_t result = program.result(asked);
    if (result == -EAGAIN || result == -EACCES) return taken(file, step);
    if (result < 0) {
      errno = static_cast<int>(-result);
      return fail_errno("lock", name(from, step));
    }
  }
  return {};
}

Result<void> open_anew(FileMaker& maker, std::size_t index, const model::OpenFile& file, int reference) {
  auto flags = static_cast<int>(file.status_flags);
  if ((flags & O_TMPFILE) == O_TMPFILE) flags &= ~O_TMPFILE;  // F_GETFL tells how it was opened
  flags &= ~(O_CREAT | O_EXCL | O_TRUNC | O_ASYNC);
  // O_NONBLOCK: somebody else's lease is not waited for. What F_SETFL can set is set by the caller.
  const UniqueFd ours(
      ::open(fmt::format("/proc/self/fd/{}", reference).c_str(), flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!ours) {
    if (errno != EWOULDBLOCK) return fail_errno("open anew", model::describe(file));
    return fail(ErrorKind::refused, fmt::format("somebody else has a lease on {} now", model::describe(file)));
  }
  return maker.give(index, ours.get());
}

Result<void> record_locks(FileMaker& maker, RemoteFd fd, const std::vector<LockStep>& steps) {
  for (const LockStep& step : steps) {
    const Call call = RELIVE_TRY(call_of(maker, fd, step));
    RELIVE_TRY(maker.visit().record_undo(name(fd, step), call.number,
                                         {call.arguments[0], call.arguments[1], call.arguments[2]}));
  }
  return {};
}

Result<void> set_locks(FileMaker& maker, Program& program, RemoteFd fd, const std::vector<LockStep>& steps,
                       Program::OnError on_error) {
  for (const LockStep& step : steps) {
    const Call call = RELIVE_TRY(call_of(maker, fd, step));
    program.syscall(name(fd, step), call.number, {call.arguments[0], call.arguments[1], call.arguments[2]}, on_error);
  }
  return {};
}

Result<void> refuse_waiters(const model::OpenFile& file) {
  const std::string listed = proc_locks();
  for (const model::FileLock& lock : file.locks) {
    if (lock.kind != LockKind::posix || !capture::somebody_waits(listed, lock.kind, lock.file)) continue;
    return fail(ErrorKind::refused,
                fmt::format("somebody waits for a lock on {}, which would be free for a moment while descriptors of "
                            "it that were opened since are closed",
                            model::describe(file)),
                "end the one who waits (see /proc/locks), or let it have the lock first");
  }
  return {};
}

}  // namespace relive::apply
