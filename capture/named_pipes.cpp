#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <map>

#include "capture/opened.h"
#include "capture/pipes.h"
#include "capture/survey.h"

namespace relive::capture {

namespace {

using model::NamedPipe;

short polled(int end) {
  pollfd one{.fd = end, .events = 0, .revents = 0};
  return ::poll(&one, 1, 0) == 1 ? one.revents : short{0};
}

// An empty pipe gives tee(2) the end of file where nobody writes, and EAGAIN where somebody may (ipipe_prep() in
// fs/splice.c, Linux 6.18). poll(2) does not tell before the first writer has come and gone.
Result<bool> shows_end(int read_end) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno("pipe2", "");
  const UniqueFd out(ends[0]);
  const UniqueFd in(ends[1]);
  return ::tee(read_end, in.get(), 1, SPLICE_F_NONBLOCK) == 0;
}

// What the task's ends of one named pipe tell together.
struct Ends {
  bool reads = false;
  bool writes = false;
  bool packets = false;     // a writer of its own writes packets
  bool hung_up = false;     // nobody writes
  bool unreadable = false;  // nobody reads
};

// Who is at the other end, where the task has only one.
Result<void> look_at(int duplicate, const NamedPipe& pipe, Ends& ends) {
  const short seen = polled(duplicate);
  if (pipe.writes) {
    ends.unreadable = ends.unreadable || (seen & POLLERR) != 0;
  } else if ((seen & POLLHUP) != 0) {
    ends.hung_up = true;
  } else if (!ends.hung_up && RELIVE_TRY(unread_in(duplicate)) == 0) {
    ends.hung_up = RELIVE_TRY(shows_end(duplicate));
  }
  return {};
}

Result<void> complete(int duplicate, const Ends& ends, NamedPipe& pipe) {
  const bool alone = ends.reads != ends.writes;
  pipe.outside = alone && !(ends.reads ? ends.hung_up : ends.unreadable);
  if (pipe.outside) return {};
  pipe.awaits_writer = alone && ends.reads && (polled(duplicate) & POLLHUP) == 0;
  if (!ends.reads) pipe.unseen = static_cast<std::uint32_t>(RELIVE_TRY(unread_in(duplicate)));
  if (!pipe.reads) return {};
  UnreadInPipe unread = RELIVE_TRY(peek_pipe(duplicate, ends.packets, pipe.capacity));
  pipe.bytes = std::move(unread.bytes);
  pipe.pieces = std::move(unread.pieces);
  return {};
}

}  // namespace

Result<model::FileObject> read_named_pipe(const Opened& opened) {
  const int capacity = ::fcntl(opened.ours, F_GETPIPE_SZ);
  if (capacity < 0) return fail_errno("fcntl F_GETPIPE_SZ", opened.link);
  const std::uint32_t mode = opened.flags & O_ACCMODE;
  return model::FileObject(NamedPipe{.path = opened.link,
                                     .identity = {.device = opened.status.st_dev, .inode = opened.status.st_ino},
                                     .reads = mode != O_WRONLY,
                                     .writes = mode != O_RDONLY,
                                     .capacity = static_cast<std::uint32_t>(capacity)});
}

Result<void> complete_named_pipes(const Survey& survey) {
  std::map<model::FileIdentity, Ends> all;
  std::vector<std::pair<std::size_t, UniqueFd>> opened;
  for (std::size_t index = 0; index < survey.table.open_files.size(); ++index) {
    const model::OpenFile& file = survey.table.open_files[index];
    const auto* const pipe = std::get_if<NamedPipe>(&file.object);
    if (pipe == nullptr) continue;
    Ends& ends = all[pipe->identity];
    ends.reads = ends.reads || pipe->reads;
    ends.writes = ends.writes || pipe->writes;
    ends.packets = ends.packets || (pipe->writes && (file.status_flags & O_DIRECT) != 0);
    opened.emplace_back(index, RELIVE_TRY(survey.borrow(survey.first[index])));
    RELIVE_TRY(look_at(opened.back().second.get(), *pipe, ends));
  }
  for (const auto& [index, duplicate] : opened) {
    auto& pipe = std::get<NamedPipe>(survey.table.open_files[index].object);
    RELIVE_TRY(complete(duplicate.get(), all.at(pipe.identity), pipe));
  }
  return {};
}

}  // namespace relive::capture
