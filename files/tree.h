// What lies below a directory, as values: inodes, their names, and what is known of each. No system call is made here.
//
// A node is an inode, not a name: hard links are several entries that lead to one node. Nodes are known by their index
// in the tree; an inode number alone tells nothing, since numbers are given again.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace relive::files {

struct Time {
  std::int64_t seconds = 0;
  std::uint32_t nanoseconds = 0;
  auto operator<=>(const Time&) const = default;
};

enum class Kind : std::uint8_t { regular, directory, symlink, fifo, socket, device };

struct Entry {
  std::string name;
  std::size_t node = 0;
  bool operator==(const Entry&) const = default;
};

struct Node {
  Kind kind = Kind::regular;
  std::uint64_t inode = 0;
  Time born;     // with the number it is the inode's identity; zero where the file system does not tell
  Time changed;  // ctime: as long as it is the same, so is all the rest but `accessed`
  Time modified;
  Time accessed;
  std::uint32_t mode = 0;  // permission bits, 07777
  std::uint32_t user = 0;
  std::uint32_t group = 0;
  std::uint64_t size = 0;                     // of regular files
  std::uint64_t bytes_used = 0;               // on the file system
  bool locked = false;                        // immutable or append-only (chattr)
  std::string target;                         // of symbolic links
  std::map<std::string, std::string> labels;  // extended attributes; ACLs are among them
  std::vector<Entry> entries;                 // of directories, by name

  // Of a saved node.
  std::uint64_t copy = 0;  // number of its contents in the store; 0: it has none
  bool linked = false;     // the store has a hard link: the same inode comes back
  bool doubtful = false;   // `changed` was too fresh when it was read: it may stay the same over a change
  bool mapped = false;     // was mapped to be written when it was saved: `changed` may stay the same over a change
};

struct Tree {
  std::vector<Node> nodes;  // nodes[0] is the directory itself
};

// Of the entry `name` of a directory; null if it has none.
[[nodiscard]] const Entry* find(const Node& directory, std::string_view name);

// The path of every node from the top, "" for the top; of a node with several names the first one that is met.
[[nodiscard]] std::vector<std::string> paths_of(const Tree& tree);
[[nodiscard]] std::string join(std::string_view directory, std::string_view name);

// As lines of text, for the journal. Any name and any attribute can stand in it.
[[nodiscard]] std::string to_text(const Tree& tree);
// Errors: system, where the text is not one that to_text() gives; all indexes are checked.
Result<Tree> from_text(std::string_view text);

}  // namespace relive::files
