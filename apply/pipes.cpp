#include "apply/pipes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <vector>

namespace relive::apply {

namespace {
// All of it, where there are no packets.
std::vector<model::PipePiece> pieces_of(const PipeContents& contents) {
  if (!contents.pieces.empty() || contents.bytes.empty()) return {contents.pieces.begin(), contents.pieces.end()};
  return {{.bytes = static_cast<std::uint32_t>(contents.bytes.size()), .packet = false}};
}
std::uint32_t mode_for(const model::PipePiece& piece, std::uint32_t flags) {
  constexpr std::uint32_t kPackets = O_DIRECT;
  return piece.packet ? flags | kPackets : flags & ~kPackets;
}
}  // namespace

// A write never blocks: the pipe is empty and holds what it held before. SIGPIPE never: its read end is there.

Result<void> fill_pipe(int writer, const PipeContents& contents) {
  const int flags = ::fcntl(writer, F_GETFL);
  if (flags < 0) return fail_errno("fcntl F_GETFL", "a new pipe");
  const std::byte* from = contents.bytes.data();
  for (const model::PipePiece& piece : pieces_of(contents)) {
    if (!contents.pieces.empty() && ::fcntl(writer, F_SETFL, mode_for(piece, static_cast<std::uint32_t>(flags))) != 0)
      return fail_errno("fcntl F_SETFL", "a new pipe");
    if (::write(writer, from, piece.bytes) != static_cast<ssize_t>(piece.bytes))
      return fail_errno("write", "a new pipe");
    from += piece.bytes;
  }
  if (!contents.pieces.empty() && ::fcntl(writer, F_SETFL, flags) != 0)
    return fail_errno("fcntl F_SETFL", "a new pipe");
  return {};
}

Result<void> refill_pipe(FileMaker& maker, model::RemoteFd write_end, std::uint32_t flags,
                         const PipeContents& contents) {
  if (contents.bytes.empty()) return {};
  std::uint64_t from = RELIVE_TRY(maker.visit().arena().put(contents.bytes)).value;
  std::uint32_t mode = flags;
  const auto set_mode = [&](std::uint32_t wanted) {
    if (mode != wanted) maker.set_flags(write_end, wanted);
    mode = wanted;
  };
  for (const model::PipePiece& piece : pieces_of(contents)) {
    set_mode(mode_for(piece, flags));
    maker.commit(fmt::format("write {} bytes to pipe {}", piece.bytes, write_end.value), SYS_write,
                 {FileMaker::number(write_end), from, piece.bytes});
    from += piece.bytes;
  }
  set_mode(flags);
  return {};
}

}  // namespace relive::apply
