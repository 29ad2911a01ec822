// Sockets: their part of diff/descriptors.h. Pure.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "diff/descriptors.h"
#include "diff/table.h"
#include "model/sockets.h"

namespace relive::diff {

// Could the living socket become the wanted one in place, as far as the two of them tell?
[[nodiscard]] bool can_become(const model::Socket& wanted, const model::Socket& living);
// May it stand for the wanted one although it is another socket? REQUIRES: can_become().
[[nodiscard]] bool can_stand_for(const model::Socket& wanted, const model::Socket& living);
// Is it one that another socket at the same address may stand for, wherever it is in the table?
[[nodiscard]] bool found_by_address(const model::Socket& wanted);
// Can what it holds and whom it is connected to be put right in place, with all matches known?
[[nodiscard]] bool can_stay(const model::Socket& wanted, const model::Socket& living, const Table& wanted_table,
                            const Table& living_table, const Matches& matches);

// Who is handled together with it: the other end, and who sends again what is unread in it.
[[nodiscard]] std::vector<std::size_t> partners(std::size_t wanted, const Table& wanted_table);

// What a socket adds to a plan.
struct SocketPart {
  std::vector<DescriptorOperation> made;      // prepared
  std::vector<DescriptorOperation> joined;    // prepared, when all sockets have been made
  std::vector<DescriptorOperation> rights;    // committed, when the numbers are the wanted table's
  std::vector<DescriptorOperation> contents;  // committed, when all rights are
  std::vector<std::string> notes;
  std::vector<Refusal> refusals;
  std::string refusal;  // one more of them, of the socket itself: why it cannot be done
};
// What makes the wanted socket anew. REQUIRES: it has no living one.
[[nodiscard]] SocketPart make_socket(std::size_t wanted, const Table& wanted_table, const Table& living_table,
                                     const Matches& matches);
// What puts its living one right.
[[nodiscard]] SocketPart put_right_socket(std::size_t wanted, const Table& wanted_table, const Table& living_table,
                                          const Matches& matches);

// The differences, for people.
[[nodiscard]] std::vector<std::string> changes(const model::Socket& wanted, const model::Socket& living);
// "unread bytes 3 -> 7".
[[nodiscard]] std::string bytes_text(const std::vector<std::byte>& wanted, const std::vector<std::byte>& living);

}  // namespace relive::diff
