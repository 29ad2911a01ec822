// All that can be seen of what lies below a directory, read without relive: two pictures that are equal leave nothing
// to be told apart but change times, numbers of directories, and how many links there are.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace relive::testing {

struct Seen {
  std::string what;      // kind, owner, mode, times, size, extended attributes, target
  std::string contents;  // bytes and where the data lies
  std::string inode;     // the first path that leads to the same inode
  unsigned long number = 0;
  bool operator==(const Seen&) const = default;
};

using Picture = std::map<std::string, Seen>;

enum class Inodes : unsigned char { same, any };
enum class Holes : unsigned char { seen, as_zeros };

// relive's own directory in it is passed over.
Picture picture_of(const std::string& directory, Inodes inodes = Inodes::same, Holes holes = Holes::seen);

// What differs, in words, at most a dozen lines.
std::string unlike(const Picture& wanted, const Picture& living);

}  // namespace relive::testing
