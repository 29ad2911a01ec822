// What needs the whole table: completes the objects of a table that was read descriptor by descriptor.
#pragma once

#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "capture/holds.h"
#include "capture/table.h"
#include "model/descriptor.h"

namespace relive::capture {

struct Survey {
  std::span<const Table> tables;  // by RemoteFd::table
  model::DescriptorTable& table;
  const std::vector<model::RemoteFd>& first;  // by open file: its lowest number
  const model::DescriptorTable* snapshot = nullptr;
  const FileHolds* holds = nullptr;  // of that snapshot

  [[nodiscard]] const Table& at(int of) const { return tables[static_cast<std::size_t>(of)]; }
  // A duplicate, in this process.
  [[nodiscard]] Result<UniqueFd> borrow(model::RemoteFd fd) const { return at(fd.table).task->borrow(fd); }
};

// Which pipes have an end outside, and the unread bytes of the others.
Result<void> complete_pipes(const Survey& survey);
// The same of named pipes, and which readers await their first writer.
Result<void> complete_named_pipes(const Survey& survey);
// Does each entry of an epoll set watch the file that is under its number now?
Result<void> complete_epoll_sets(const Survey& survey);
// Unix sockets: peers outside are none of ours; between two sockets of the tree, the unread bytes are.
Result<void> complete_unix_sockets(const Survey& survey);
// TCP connections from the tree to itself, both ends established or one half ended, and nothing under way: each other's
// inode and the unread bytes. Others count as connections to a peer outside.
Result<void> complete_tcp_pairs(const Survey& survey);
// UDP and its like: unread datagrams, multicast groups, shutdown, a pending error.
Result<void> complete_addressed_sockets(const Survey& survey);

// Which pseudo-terminals have both ends in the tree.
void complete_terminals(const Survey& survey);

}  // namespace relive::capture
