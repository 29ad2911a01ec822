// One descriptor of a frozen task, as the readers of the kinds see it; and the readers themselves, one a kind.
//
// A reader tells everything about the object behind one open file description that it can tell without the rest of the
// table. What needs the whole table (who is at the other end of a pipe) is completed afterwards (capture/survey.h).
// None changes anything, in the task or in the object.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "capture/table.h"
#include "model/descriptor.h"

namespace relive::capture {

struct Opened {
  const Table& table;  // in which `fd` is
  model::RemoteFd fd;
  int ours;                       // a duplicate in this process, for this moment
  int fdinfo_directory;           // /proc/PID/task/TID/fdinfo
  const std::string& link;        // the target of /proc/PID/fd/N
  const struct stat& status;      // fstat(2)
  std::uint32_t flags;            // fcntl(F_GETFL)
  std::int64_t position;          // 0 where it cannot seek
  std::span<const Table> tables;  // of the tree

  // The text of /proc/PID/fdinfo/N.
  [[nodiscard]] Result<std::string> fdinfo() const;
};

Result<model::FileObject> read_regular(const Opened& opened);    // and directories, and memfds
Result<model::FileObject> read_reference(const Opened& opened);  // O_PATH, to whatever it is
Result<model::FileObject> read_device(const Opened& opened);     // character devices
[[nodiscard]] bool is_message_queue(const Opened& opened);
Result<model::FileObject> read_message_queue(const Opened& opened);
Result<model::FileObject> read_terminal(const Opened& opened);
Result<model::FileObject> read_tunnel(const Opened& opened);
Result<model::FileObject> read_pipe(const Opened& opened);
Result<model::FileObject> read_named_pipe(const Opened& opened);
Result<model::FileObject> read_event_counter(const Opened& opened);
Result<model::FileObject> read_epoll_set(const Opened& opened);
Result<model::FileObject> read_timer(const Opened& opened);
Result<model::FileObject> read_signal_file(const Opened& opened);
Result<model::FileObject> read_inotify(const Opened& opened);
Result<model::FileObject> read_process_handle(const Opened& opened);

// The reader of an object whose link says what it is ("anon_inode:[eventfd]"); null where the link does not tell, or
// nobody reads that kind.
using ReadObject = Result<model::FileObject> (*)(const Opened&);
[[nodiscard]] ReadObject reader_of(std::string_view link);

// Parsers of fdinfo.
Result<model::EventCounter> parse_event_counter(std::string_view fdinfo);
// The process that is told when a message comes, from the text that a message queue's file reads; 0: none.
std::uint64_t parse_notified_task(std::string_view status);
Result<model::EpollSet> parse_epoll_set(std::string_view fdinfo);
Result<model::TimerFile> parse_timer(std::string_view fdinfo);
Result<model::SignalFile> parse_signal_file(std::string_view fdinfo);
Result<model::InotifySet> parse_inotify(std::string_view fdinfo);
Result<model::ProcessHandle> parse_process_handle(std::string_view fdinfo);

}  // namespace relive::capture
