#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <set>

#include "capture/opened.h"
#include "capture/pipes.h"
#include "capture/survey.h"

namespace relive::capture {

namespace {

using model::OpenFile;
using model::PipeEnd;

// A pipe of ours with copies of all that is unread in another, which stays unread there (tee(2)). The copies of packets
// are packets.
Result<UniqueFd> copy_of(int read_end, std::uint32_t capacity, std::size_t unread) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno("pipe2", "");
  UniqueFd out(ends[0]);
  const UniqueFd in(ends[1]);
  if (::fcntl(in.get(), F_SETPIPE_SZ, capacity) < 0) return fail_errno("fcntl F_SETPIPE_SZ", "a pipe of relive's");
  const ssize_t copied = ::tee(read_end, in.get(), unread, SPLICE_F_NONBLOCK);
  if (copied < 0) return fail_errno("tee", "pipe");
  if (static_cast<std::size_t>(copied) != unread)
    return fail(ErrorKind::system, "the unread bytes of a pipe could not be copied whole");
  return out;
}

}  // namespace

Result<std::size_t> unread_in(int end) {
  int unread = 0;
  if (::ioctl(end, FIONREAD, &unread) != 0) return fail_errno("ioctl FIONREAD", "pipe");
  return static_cast<std::size_t>(unread);
}

namespace {

// What reads of their own get of a copy: a read ends with a packet, and what it leaves of one is gone (pipe(2)).
Result<std::vector<model::PipePiece>> pieces_in(int copy, std::size_t unread, const std::vector<std::size_t>& reads) {
  std::vector<model::PipePiece> pieces;
  std::vector<std::byte> rest;
  for (const std::size_t size : reads) {
    std::byte one{};
    if (::read(copy, &one, 1) != 1) return fail_errno("read", "a copy of a pipe");
    const std::size_t left = RELIVE_TRY(unread_in(copy));
    // Of a single byte: a stream would have gone on with what follows.
    const bool packet = size == 1 ? left != 0 : unread - left == size;
    if (!packet && size > 1) {
      rest.resize(size - 1);
      if (::read(copy, rest.data(), rest.size()) != static_cast<ssize_t>(rest.size()))
        return fail_errno("read", "a copy of a pipe");
    }
    unread -= size;
    pieces.push_back({.bytes = static_cast<std::uint32_t>(size), .packet = packet});
  }
  return pieces;
}

}  // namespace

Result<UnreadInPipe> peek_pipe(int read_end, bool packets, std::uint32_t capacity) {
  const std::size_t unread = RELIVE_TRY(unread_in(read_end));
  UnreadInPipe found;
  if (unread == 0) return found;
  std::vector<std::byte> bytes(unread);
  const UniqueFd copy = RELIVE_TRY(copy_of(read_end, capacity, unread));
  std::vector<std::size_t> reads;
  for (std::size_t done = 0; done < unread; done += reads.back()) {
    const ssize_t size = ::read(copy.get(), bytes.data() + done, unread - done);
    if (size <= 0) return fail(ErrorKind::system, "the unread bytes of a pipe could not be copied whole");
    reads.push_back(static_cast<std::size_t>(size));
  }
  found.bytes = std::move(bytes);
  if (!packets && reads.size() == 1) return found;
  const UniqueFd second = RELIVE_TRY(copy_of(read_end, capacity, unread));
  auto pieces = RELIVE_TRY(pieces_in(second.get(), unread, reads));
  if (unread == 1) pieces.front().packet = packets;
  if (std::ranges::any_of(pieces, &model::PipePiece::packet)) found.pieces = std::move(pieces);
  return found;
}

Result<model::FileObject> read_pipe(const Opened& opened) {
  const int capacity = ::fcntl(opened.ours, F_GETPIPE_SZ);
  if (capacity < 0) return fail_errno("fcntl F_GETPIPE_SZ", "pipe");
  return model::FileObject(PipeEnd{.identity = {.device = opened.status.st_dev, .inode = opened.status.st_ino},
                                   .write_end = (opened.flags & O_ACCMODE) == O_WRONLY,
                                   .outside = false,
                                   .capacity = static_cast<std::uint32_t>(capacity),
                                   .bytes = {}});
}

Result<void> complete_pipes(const Survey& survey) {
  std::set<std::pair<model::FileIdentity, bool>> ends;  // pipe, is it the write end?
  std::set<model::FileIdentity> packet_pipes;           // whose writer writes packets
  for (const OpenFile& file : survey.table.open_files) {
    const auto* const end = std::get_if<PipeEnd>(&file.object);
    if (end == nullptr) continue;
    ends.emplace(end->identity, end->write_end);
    if (end->write_end && (file.status_flags & O_DIRECT) != 0) packet_pipes.insert(end->identity);
  }
  for (std::size_t index = 0; index < survey.table.open_files.size(); ++index) {
    auto* const end = std::get_if<PipeEnd>(&survey.table.open_files[index].object);
    if (end == nullptr) continue;
    const bool whole = ends.contains({end->identity, !end->write_end});
    const bool packets = packet_pipes.contains(end->identity);
    const UniqueFd duplicate = RELIVE_TRY(survey.borrow(survey.first[index]));
    // No partner here: poll says whether there is one at all (POLLHUP: no writer, POLLERR: no reader; pipe(7)).
    pollfd one{.fd = duplicate.get(), .events = 0, .revents = 0};
    end->outside = !whole && (::poll(&one, 1, 0) != 1 || (one.revents & (POLLHUP | POLLERR)) == 0);
    if (end->write_end || end->outside) continue;
    UnreadInPipe unread = RELIVE_TRY(peek_pipe(duplicate.get(), packets, end->capacity));
    end->bytes = std::move(unread.bytes);
    end->pieces = std::move(unread.pieces);
  }
  return {};
}

}  // namespace relive::capture
