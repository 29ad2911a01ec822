#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <set>

#include "capture/opened.h"
#include "capture/survey.h"

namespace relive::capture {

namespace {

using model::OpenFile;
using model::PipeEnd;

// Copies the unread bytes by tee(2) into a pipe of ours, so that they stay unread.
Result<std::vector<std::byte>> peek_pipe(int read_end, std::uint32_t capacity) {
  int unread = 0;
  if (::ioctl(read_end, FIONREAD, &unread) != 0) return fail_errno("ioctl FIONREAD", "pipe");
  std::vector<std::byte> bytes(static_cast<std::size_t>(unread));
  if (unread == 0) return bytes;
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno("pipe2", "");
  const UniqueFd out(ends[0]);
  const UniqueFd in(ends[1]);
  if (::fcntl(in.get(), F_SETPIPE_SZ, capacity) < 0) return fail_errno("fcntl F_SETPIPE_SZ", "a pipe of relive's");
  const ssize_t copied = ::tee(read_end, in.get(), bytes.size(), SPLICE_F_NONBLOCK);
  if (copied < 0) return fail_errno("tee", "pipe");
  std::size_t done = 0;
  while (done < static_cast<std::size_t>(copied)) {
    const ssize_t size = ::read(out.get(), bytes.data() + done, bytes.size() - done);
    if (size <= 0) break;
    done += static_cast<std::size_t>(size);
  }
  if (done != bytes.size()) return fail(ErrorKind::system, "the unread bytes of a pipe could not be copied whole");
  return bytes;
}

}  // namespace

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
  for (const OpenFile& file : survey.table.open_files)
    if (const auto* const end = std::get_if<PipeEnd>(&file.object)) ends.emplace(end->identity, end->write_end);
  for (std::size_t index = 0; index < survey.table.open_files.size(); ++index) {
    auto* const end = std::get_if<PipeEnd>(&survey.table.open_files[index].object);
    if (end == nullptr) continue;
    const bool whole = ends.contains({end->identity, !end->write_end});
    const UniqueFd duplicate = RELIVE_TRY(survey.visit.task().borrow(survey.first[index]));
    // No partner here: poll says whether there is one at all (POLLHUP: no writer, POLLERR: no reader; pipe(7)).
    pollfd one{.fd = duplicate.get(), .events = 0, .revents = 0};
    end->outside = !whole && (::poll(&one, 1, 0) != 1 || (one.revents & (POLLHUP | POLLERR)) == 0);
    const bool packets = (survey.table.open_files[index].status_flags & O_DIRECT) != 0;
    if (end->write_end || end->outside || packets) continue;
    end->bytes = RELIVE_TRY(peek_pipe(duplicate.get(), end->capacity));
  }
  return {};
}

}  // namespace relive::capture
