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

#include "model/ids.h"

namespace relive::model {

// Identity of a file: device and inode as fstat(2) gives them.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  auto operator<=>(const FileIdentity&) const = default;
};

// A regular file or a directory. What is in the file is no part of a snapshot.
struct RegularFile {
  std::string path;
  FileIdentity identity;
  bool directory = false;
  bool deleted = false;
  std::int64_t position = 0;
  bool operator==(const RegularFile&) const = default;
};

// A memory device (/dev/null, /dev/zero, /dev/urandom ...) or a terminal. A terminal's settings are no part of a
// snapshot.
struct DeviceFile {
  std::string path;
  FileIdentity identity;
  std::uint64_t device_number = 0;  // st_rdev
  std::int64_t position = 0;
  bool terminal = false;
  bool operator==(const DeviceFile&) const = default;
};

// One end of a pipe(2). `bytes` are the unread bytes, known at the read end of a pipe that is not `outside`.
struct PipeEnd {
  FileIdentity identity;  // the pipe
  bool write_end = false;
  bool outside = false;  // the other end lives, and belongs to somebody else
  std::uint32_t capacity = 0;
  std::vector<std::byte> bytes;
  bool operator==(const PipeEnd&) const = default;
};

struct EventCounter {    // eventfd(2)
  std::uint64_t id = 0;  // "eventfd-id" of fdinfo: two living counters never share it; the kernel uses it again
  std::uint64_t count = 0;
  bool semaphore = false;      // EFD_SEMAPHORE
  bool semaphore_told = true;  // false before Linux 6.5 (fdinfo "eventfd-semaphore"): it cannot be made again
  bool operator==(const EventCounter&) const = default;
};

// One file that an epoll set watches. The kernel keys entries on (file, number), not on the number alone.
struct EpollEntry {
  RemoteFd fd;  // "tfd" of fdinfo
  std::uint32_t events = 0;
  std::uint64_t data = 0;
  bool stale = false;  // the file it watches is no longer the one under this number
  bool operator==(const EpollEntry&) const = default;
};

struct EpollSet {
  std::vector<EpollEntry> entries;  // by fd, ascending
  bool operator==(const EpollSet&) const = default;
};

// An option as setsockopt(2) takes it.
struct SocketOption {
  int level = 0;
  int name = 0;
  std::vector<std::byte> value;
  bool operator==(const SocketOption&) const = default;
};

enum class SocketState : std::uint8_t {
  fresh,  // neither bound nor connected
  bound,  // has an address
  listening,
  connected,  // or about to be
  hung_up,    // was connected; nobody is at the other end any more
};

// A stream socket: TCP over IPv4 or IPv6, or unix.
struct StreamSocket {
  std::uint64_t inode = 0;
  int family = 0;
  int protocol = 0;
  SocketState state = SocketState::fresh;
  std::vector<std::byte> local;  // sockaddr
  std::vector<std::byte> peer;
  int backlog = 0;
  std::uint64_t peer_inode = 0;  // the other end, when it is a unix socket of this task; else 0
  int shutdown = 0;              // RCV_SHUTDOWN 1, SEND_SHUTDOWN 2, as sock_diag(7) tells it; where peer_inode is known
  std::vector<std::byte> received;  // unread bytes, captured only when the peer is the task's own, or gone
  std::vector<SocketOption> options;
  bool operator==(const StreamSocket&) const = default;
};

// Something this release does not handle: a snapshot with it is refused by name.
struct UnhandledFile {
  std::string what;  // "timerfd", "inotify instance", ...: a noun that takes an s
  bool operator==(const UnhandledFile&) const = default;
};

using FileObject = std::variant<RegularFile, DeviceFile, PipeEnd, EventCounter, EpollSet, StreamSocket, UnhandledFile>;

struct OpenFile {
  std::uint32_t status_flags = 0;  // fcntl(F_GETFL)
  std::int32_t owner = 0;          // F_GETOWN_EX: pid, and ...
  std::int32_t owner_type = 0;     // ... what it names: F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP
  std::int32_t owner_signal = 0;   // F_GETSIG
  bool locked = false;             // a lock or lease stands on it (fdinfo "lock:")
  bool watched = false;            // it is in an epoll set of the task
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
  std::vector<Descriptor> descriptors;  // by number, ascending
  std::vector<OpenFile> open_files;
};

// May the keeper keep a reference of its own to it? Only to what the task cannot notice (design, section 8): regular
// files without locks, directories and devices, and of these none that an epoll set watches.
[[nodiscard]] bool may_be_held(const OpenFile& file);

// For people: "/tmp/x", "pipe, read end", "socket 127.0.0.1:55 -> 127.0.0.1:80", "timerfd".
[[nodiscard]] std::string describe(const OpenFile& file);
// "127.0.0.1:55", "[::1]:55", "/run/x.sock", "@abstract", "unnamed".
[[nodiscard]] std::string address_text(std::span<const std::byte> address);

}  // namespace relive::model
