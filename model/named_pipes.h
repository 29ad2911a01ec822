// Named pipes (fifo(7)). The pipe belongs to the file: every end that anybody opens leads to the same bytes, and they
// are gone when the last end is closed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "model/files.h"
#include "model/words.h"

namespace relive::model {

// One open file description of a named pipe. `bytes` and `pieces` as of PipeEnd: known where it reads and is not
// `outside`.
struct NamedPipe {
  std::string path;  // " (deleted)" behind it when it was unlinked
  FileIdentity identity;
  bool reads = false;
  bool writes = false;
  bool outside = false;  // the other end lives, and belongs to somebody else alone
  // A reader that was opened without waiting (O_NONBLOCK), and no writer has come since: it shows no hang-up (poll(2)).
  bool awaits_writer = false;
  std::uint32_t capacity = 0;
  std::uint32_t unseen = 0;  // unread bytes while nobody has it open for reading: they cannot be looked at
  std::vector<std::byte> bytes = {};
  std::vector<PipePiece> pieces = {};
  bool operator==(const NamedPipe&) const = default;
};
Words words(const NamedPipe& pipe);

}  // namespace relive::model
