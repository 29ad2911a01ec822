// Descriptors, open file descriptions, and the kernel objects behind them.
//
// A descriptor is a number and its close-on-exec flag; it names an open file description by index. Two descriptors with
// the same index share one description (dup(2)).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "model/files.h"
#include "model/ids.h"
#include "model/locks.h"
#include "model/message_queue.h"
#include "model/named_pipes.h"
#include "model/self_contained.h"
#include "model/sockets.h"
#include "model/terminals.h"
#include "model/words.h"

namespace relive::model {

// One file that an epoll set watches. The kernel keys entries on (file, number), not on the number alone.
struct EpollEntry {
  RemoteFd fd;  // "tfd" of fdinfo, in the lowest table that has the set, and the file under that number
  std::uint32_t events = 0;
  std::uint64_t data = 0;
  bool stale = false;  // the file it watches is no longer the one under this number, ...
  std::optional<std::size_t> file =
      std::nullopt;  // ... but this one, where the tree has it under another; else nobody's
  bool operator==(const EpollEntry&) const = default;
};

struct EpollSet {
  std::vector<EpollEntry> entries;  // by fd, ascending
  bool operator==(const EpollSet&) const = default;
};
Words words(const EpollSet& set);

// Something this release does not handle: a snapshot with it is refused by name.
struct UnhandledFile {
  std::string what;  // "timerfd", "inotify instance", ...: a noun that takes an s
  bool operator==(const UnhandledFile&) const = default;
};
Words words(const UnhandledFile& file);

using FileObject = std::variant<RegularFile, DeviceFile, PipeEnd, EventCounter, EpollSet, Socket,                  //
                                TimerFile, SignalFile, InotifySet, ProcessHandle, Tunnel, Terminal, MessageQueue,  //
                                NamedPipe, UnhandledFile>;

struct OpenFile {
  std::uint32_t status_flags = 0;    // fcntl(F_GETFL)
  std::int32_t owner = 0;            // F_GETOWN_EX: pid, and ...
  std::int32_t owner_type = 0;       // ... what it names: F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP
  std::int32_t owner_signal = 0;     // F_GETSIG
  std::vector<FileLock> locks = {};  // those taken through it (model/locks.h)
  bool watched = false;              // it is in an epoll set of the task
  FileObject object;
  // In a living table that was captured against a snapshot: the index of the snapshot's open file that is the very same
  // description (kcmp, or the object's own identity where nothing may be held).
  std::optional<std::size_t> same_as = std::nullopt;
  bool operator==(const OpenFile&) const = default;
};

struct Descriptor {
  RemoteFd fd;
  bool close_on_exec = false;
  std::size_t open_file = 0;  // index into DescriptorTable::open_files
  bool operator==(const Descriptor&) const = default;
};

struct DescriptorTable {
  std::vector<Descriptor> descriptors;  // of all tables of the tree; by table and number, ascending
  std::vector<OpenFile> open_files;     // one without a number is in flight: an unread message carries it
};

// May the keeper keep a reference of its own to it? Only to what the task cannot notice (design, section 8): regular
// files, memfds, directories, memory devices, message queues and O_PATH references; of these none that an epoll set
// watches, and none with a lock that goes with the open file description.
[[nodiscard]] bool may_be_held(const OpenFile& file);

// Is it opened anew through a reference to the file alone (O_PATH), which keeps no lock, and no end of a named pipe
// open? Where it may not be held because of its locks, and named pipes.
[[nodiscard]] bool is_opened_anew(const OpenFile& file);

// For people: "descriptor 5"; "descriptor 5 of task 4242" where there are several tables. `tasks`: whose each table is.
[[nodiscard]] std::string name_of(RemoteFd fd, std::span<const Pid> tasks = {});
// For people: "/tmp/x", "pipe, read end", "socket 127.0.0.1:55 -> 127.0.0.1:80", "timerfd".
[[nodiscard]] std::string describe(const OpenFile& file);
[[nodiscard]] Words words_of(const FileObject& object);

}  // namespace relive::model
