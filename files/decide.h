// What must be done so that a directory is again as it was saved. Pure: two trees in, steps out.
//
// The steps are a way forward only: each can be taken again, and deciding anew behind any of them gives a way to the
// same end. That is what a crash is survived by (docs/files.md).
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "files/tree.h"

namespace relive::files {

enum class Act : std::uint8_t {
  unlink,            // `path`: a name that was not there
  set_aside,         // `path`, something saved under another name, to a name at the top of relive's own
  remove_directory,  // `path`, which is empty by then
  make_directory,    // `path`, for a saved directory that is gone
  place,             // what was set aside to `path`
  link,              // `path` is the saved inode again: from the store, or from `from`, another name of it
  make,              // `path`: an inode like the saved one, which is gone
  contents,          // of `path`: what differs is written
  attributes,        // of `path`: owner, mode, attributes, times
};

struct Step {
  Act act = Act::unlink;
  std::string path;      // from the top; "" is the directory itself
  std::size_t node = 0;  // saved node; of `unlink` and `remove_directory`: nothing
  std::string from;
  bool operator==(const Step&) const = default;
};

struct Work {
  std::vector<Step> steps;
  // Saved node to living node, where the same inode or another one in its place lives.
  std::vector<std::size_t> places;
  static constexpr std::size_t kNone = ~std::size_t{0};
};

// Inode numbers of files of which the change time tells nothing (files/directory.h).
using Suspects = std::set<std::uint64_t>;

// REQUIRES: saved.nodes[0] and living.nodes[0] are the same directory.
[[nodiscard]] Work decide(const Tree& saved, const Tree& living, const Suspects& suspects);

// True for one inode at two times.
[[nodiscard]] bool same_inode(const Node& one, const Node& other);

// "write what differs of base/1/1259": for --dry-run.
[[nodiscard]] std::string text(const Step& step);

}  // namespace relive::files
