// Files that have a name or had one, and pipes: what an open file description may lead to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/words.h"

namespace relive::model {

// Identity of a file: device and inode as fstat(2) gives them.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  auto operator<=>(const FileIdentity&) const = default;
};

// What a memfd (memfd_create(2)) holds: it is part of a snapshot, unlike that of any other file.
struct MemoryFile {
  std::uint32_t seals = 0;     // F_GET_SEALS
  std::int64_t size = 0;       // bytes
  std::uint64_t resident = 0;  // bytes that take memory
  std::uint64_t digest = 0;  // of the contents; equal contents have equal ones. Not computed where `resident` is large
  bool operator==(const MemoryFile&) const = default;
};
inline constexpr std::uint64_t kMemoryFileLimit = std::uint64_t{64} << 20;  // resident bytes that a snapshot may keep

// A regular file, a directory or a memfd. What is in the file is no part of a snapshot, but for memfds.
struct RegularFile {
  std::string path;
  FileIdentity identity;
  bool directory = false;
  bool deleted = false;
  std::int64_t position = 0;
  std::optional<MemoryFile> memory = std::nullopt;
  bool operator==(const RegularFile&) const = default;
};

// A memory device (/dev/null, /dev/zero, /dev/urandom ...), or an O_PATH reference to a terminal.
struct DeviceFile {
  std::string path;
  FileIdentity identity;
  std::uint64_t device_number = 0;  // st_rdev
  std::int64_t position = 0;
  bool operator==(const DeviceFile&) const = default;
};

// What one read(2) gets of a pipe at most: a packet (O_DIRECT), or a stretch of a stream.
struct PipePiece {
  std::uint32_t bytes = 0;
  bool packet = false;
  bool operator==(const PipePiece&) const = default;
};

// One end of a pipe(2). `bytes` are the unread bytes, known at the read end of a pipe that is not `outside`.
struct PipeEnd {
  FileIdentity identity;  // the pipe
  bool write_end = false;
  bool outside = false;  // the other end lives, and belongs to somebody else
  std::uint32_t capacity = 0;
  std::vector<std::byte> bytes;
  std::vector<PipePiece> pieces = {};  // where there are packets among them; else empty, and all is one stream
  bool operator==(const PipeEnd&) const = default;
};

Words words(const RegularFile& file);
Words words(const DeviceFile& file);
Words words(const PipeEnd& pipe);

}  // namespace relive::model
