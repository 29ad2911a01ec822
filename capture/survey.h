// What needs the whole table: completes the objects of a table that was read descriptor by descriptor.
#pragma once

#include <vector>

#include "base/result.h"
#include "model/descriptor.h"
#include "parasite/session.h"

namespace relive::capture {

struct Survey {
  parasite::Visit& visit;
  model::DescriptorTable& table;
  const std::vector<model::RemoteFd>& first;  // by open file: its lowest number
};

// Which pipes have an end outside, and the unread bytes of the others.
Result<void> complete_pipes(const Survey& survey);
// Does each entry of an epoll set watch the file that is under its number now?
Result<void> complete_epoll_sets(const Survey& survey);
// Unix sockets: peers outside are none of ours; between two sockets of the task, the unread bytes are.
Result<void> complete_unix_sockets(const Survey& survey);
// TCP connections from the task to itself, both ends established or one half ended, and nothing under way: each other's
// inode and the unread bytes. Others count as connections to a peer outside.
Result<void> complete_tcp_pairs(const Survey& survey);
// UDP and its like: unread datagrams, multicast groups, shutdown, a pending error.
Result<void> complete_addressed_sockets(const Survey& survey);

// Which pseudo-terminals have both ends in the task.
void complete_terminals(const Survey& survey);

}  // namespace relive::capture
