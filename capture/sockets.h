// Sockets, read through a duplicate of ours. Part of capture/descriptors.h.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "capture/in_flight.h"
#include "model/descriptor.h"

namespace relive::capture {

// What sock_diag(7) knows of one unix socket of our network namespace.
struct UnixDiagnosis {
  bool found = false;
  std::uint64_t peer_inode = 0;  // 0: no peer, or the peer is closed
  std::uint32_t backlog = 0;     // of a listening socket
  int shutdown = 0;
  std::uint64_t file_inode = 0;  // of its name in the file system, lower 32 bits; 0: it has none
};

// One netlink socket, opened with the first question.
class UnixDiagnoser {
 public:
  Result<UnixDiagnosis> ask(std::uint64_t inode);

 private:
  UniqueFd netlink_;
};

// Reads the socket behind `duplicate`: a model::Socket, or a model::UnhandledFile where it is of another kind.
// Socket::peer_inode is the peer wherever it is, and `unread` is empty unless the peer is gone: the caller, who sees
// the whole table, completes both.
Result<model::FileObject> read_socket(int duplicate, std::uint64_t inode, UnixDiagnoser& diagnoser);

// The instructions of a socket's filter (SO_ATTACH_FILTER), none where it has none. Errors: permission, where it is a
// BPF program, which the kernel shows to nobody.
Result<std::vector<std::byte>> read_filter(int socket);

// What a socket is bound and connected to (model::Socket::local and peer); nothing where there is none.
std::vector<std::byte> own_address(int socket);
std::vector<std::byte> peer_address(int socket);

// Whose messages need not be told from the task's own.
struct Sender {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};
// Why the unread messages of a socket cannot be put back; empty if they can.
[[nodiscard]] std::string unhandled_messages(const model::Socket& socket);
// Why the files that travel with them cannot be sent again; empty if they can.
[[nodiscard]] std::string unhandled_in_flight(const model::Socket& socket, const model::DescriptorTable& table);

// The unread messages, which stay unread; of a stream, neighbours that differ in nothing but their bytes are one.
// Descriptors that travel with them are given to `identify`. An empty message behind others is seen once: the kernel
// takes it for looked at from then on, and passes over it (SO_PEEK_OFF, socket(7); __skb_try_recv_from_queue(),
// Linux 6.18).
Result<std::vector<model::Message>> peek_messages(int duplicate, int family, int type, const Sender& task,
                                                  const Identify& identify);

}  // namespace relive::capture
