#include "apply/file_maker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>

#include <algorithm>

#include "base/fault.h"

namespace relive::apply {

using model::RemoteFd;
using parasite::Program;

namespace {

constexpr std::uint64_t kMostEmpty = 4096;  // empty messages in a row; no queue is longer (net.unix.max_dgram_qlen)
constexpr std::size_t kScratchBytes = std::size_t{64} << 10;

void move(Program& program, RemoteFd from, RemoteFd to) {
  program.syscall(fmt::format("dup3 {} -> {}", from.value, to.value), SYS_dup3,
                  {FileMaker::number(from), FileMaker::number(to), O_CLOEXEC});
  program.syscall(fmt::format("close {}", from.value), SYS_close, {FileMaker::number(from)});
}
Result<void> check_number(const Program& program, std::size_t index, RemoteFd expected) {
  if (program.result(index) == expected.value) return {};
  return fail(ErrorKind::system, fmt::format("{}: the kernel gave number {}, not {}", program.what(index),
                                             program.result(index), expected.value));
}

}  // namespace

Result<RemoteFd> FileMaker::take_spare(const std::vector<RemoteFd>& not_these) {
  for (;;) {
    const RemoteFd spare = RELIVE_TRY(visit().spare_descriptor());
    if (std::ranges::find(not_these, spare) == not_these.end()) return spare;
  }
}

Result<void> FileMaker::record_close(RemoteFd spare) {
  return visit().record_undo(fmt::format("close {}", spare.value), SYS_close, {number(spare)});
}

Result<void> FileMaker::give(std::size_t file, int ours) {
  RELIVE_TRY(fault_point("give a descriptor"));
  const RemoteFd spare = RELIVE_TRY(take_spare({}));
  RELIVE_TRY(record_close(spare));
  RELIVE_TRY(visit().give(ours, spare));
  spares_[file] = spare;
  return {};
}

// One program: make it, where the kernel puts it, and move it to a spare number.
Result<void> FileMaker::make_one(std::size_t file, const std::string& what, long call,
                                 const std::array<std::uint64_t, 3>& arguments) {
  RELIVE_TRY(fault_point("make " + what));
  const auto lowest = RELIVE_TRY(visit().next_descriptors(1));
  const RemoteFd spare = RELIVE_TRY(take_spare(lowest));
  RELIVE_TRY(record_close(spare));
  Program program;
  program.syscall("make " + what, call, {arguments[0], arguments[1], arguments[2]});
  move(program, lowest[0], spare);
  RELIVE_TRY(visit().run(program));
  visit().note_open(spare);
  spares_[file] = spare;
  return check_number(program, 0, lowest[0]);
}

Result<std::pair<RemoteFd, RemoteFd>> FileMaker::make_two(const std::string& what, long call,
                                                          const ArgumentsWith& arguments_with) {
  RELIVE_TRY(fault_point("make " + what));
  const auto lowest = RELIVE_TRY(visit().next_descriptors(2));
  const RemoteFd first = RELIVE_TRY(take_spare(lowest));
  const RemoteFd second = RELIVE_TRY(take_spare(lowest));
  const auto there = RELIVE_TRY(visit().arena().take(2 * sizeof(int)));
  const auto arguments = arguments_with(there.there.value);
  RELIVE_TRY(record_close(first));
  RELIVE_TRY(record_close(second));
  Program program;
  program.syscall("make " + what, call, {arguments[0], arguments[1], arguments[2], arguments[3]});
  move(program, lowest[0], first);
  move(program, lowest[1], second);
  RELIVE_TRY(visit().run(program));
  visit().note_open(first);
  visit().note_open(second);
  return std::pair{first, second};
}

Result<void> FileMaker::duplicate(std::size_t file, RemoteFd from) {
  RELIVE_TRY(fault_point("second number of a descriptor"));
  const RemoteFd spare = RELIVE_TRY(take_spare({}));
  RELIVE_TRY(record_close(spare));
  RELIVE_TRY(visit().syscall(fmt::format("dup3 {} -> {}", from.value, spare.value), SYS_dup3,
                             {number(from), number(spare), O_CLOEXEC}));
  visit().note_open(spare);
  spares_[file] = spare;
  return {};
}

Result<void> FileMaker::close(RemoteFd spare) {
  RELIVE_TRY(visit().syscall(fmt::format("close {}", spare.value), SYS_close, {number(spare)}));
  visit().note_closed(spare);
  return {};
}

std::optional<std::size_t> FileMaker::file_at(RemoteFd spare) const {
  const auto found = std::ranges::find_if(spares_, [&](const auto& one) { return one.second.value == spare.value; });
  return found == spares_.end() ? std::nullopt : std::optional(found->first);
}

void FileMaker::commit(std::string what, long call, std::initializer_list<std::uint64_t> arguments) {
  workshop_.commit.syscall(std::move(what), call, arguments);
}

void FileMaker::set_flags(RemoteFd fd, std::uint32_t flags) {
  commit(fmt::format("fcntl {} F_SETFL {:#o}", fd.value, flags), SYS_fcntl, {number(fd), F_SETFL, flags});
}

// close(2) frees the number whatever it answers.
void FileMaker::close_in(Program& program, RemoteFd fd) {
  program.syscall(fmt::format("close {}", fd.value), SYS_close, {number(fd)}, Program::OnError::go_on);
}

void FileMaker::close_spares() {
  for (const auto& [file, spare] : spares_) close_in(workshop_.cleanup, spare);
}

Result<void> FileMaker::drain(RemoteFd fd, std::uint32_t flags, Drain what) {
  if (!scratch_) scratch_ = RELIVE_TRY(visit().arena().take(kScratchBytes)).there;
  set_flags(fd, flags | O_NONBLOCK);
  workshop_.commit.add(fmt::format("drain {}", fd.value), wire::Kind::drain,
                       {number(fd), scratch_->value, kScratchBytes, what == Drain::messages ? kMostEmpty : 0});
  set_flags(fd, flags);
  return {};
}

}  // namespace relive::apply
