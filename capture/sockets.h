// Stream sockets, read through a duplicate of ours. Part of capture/descriptors.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "model/descriptor.h"

namespace relive::capture {

// What sock_diag(7) knows of one unix socket of our network namespace.
struct UnixDiagnosis {
  bool found = false;
  std::uint64_t peer_inode = 0;  // 0: no peer, or the peer is closed
  std::uint32_t backlog = 0;     // of a listening socket
  int shutdown = 0;
};

// One netlink socket, opened with the first question.
class UnixDiagnoser {
 public:
  Result<UnixDiagnosis> ask(std::uint64_t inode);

 private:
  UniqueFd netlink_;
};

// Reads the socket behind `duplicate`: a model::Socket, or a model::UnhandledFile where it is of another kind.
// Socket::peer_inode is the peer wherever it is, and `received` is empty unless the peer is gone: the caller, who
// sees the whole table, completes both.
Result<model::FileObject> read_socket(int duplicate, std::uint64_t inode, UnixDiagnoser& diagnoser);

// The unread bytes, which stay unread. ErrorKind::refused if descriptors travel with them.
Result<std::vector<std::byte>> peek_received(int duplicate);

}  // namespace relive::capture
