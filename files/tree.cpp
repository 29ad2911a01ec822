#include "files/tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>

#include "base/number.h"

namespace relive::files {

namespace {

constexpr std::string_view kFirstLine = "relive files 1";

std::string hex(std::string_view bytes) {
  std::string out = "=";
  for (const char byte : bytes) fmt::format_to(std::back_inserter(out), "{:02x}", static_cast<unsigned char>(byte));
  return out;
}

std::unexpected<Error> malformed(std::string_view line) {
  return fail(ErrorKind::system, fmt::format("the list of saved files has a line that is none: '{}'", line));
}

// The words of one line, taken from left to right. A word that is missing or wrong makes all of them wrong.
class Words {
 public:
  explicit Words(std::string_view line) : rest_(line) {}

  std::string_view word() {
    const auto end = std::min(rest_.find(' '), rest_.size());
    const std::string_view taken = rest_.substr(0, end);
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    good_ = good_ && !taken.empty();
    return taken;
  }
  template <class Number>
  Number number() {
    const auto value = parse_number<Number>(word());
    good_ = good_ && value;
    return value.value_or(Number{});
  }
  Time time() {
    const auto seconds = number<std::int64_t>();
    return {.seconds = seconds, .nanoseconds = number<std::uint32_t>()};
  }
  std::string bytes() {
    std::string_view text = word();
    good_ = good_ && text.starts_with('=') && text.size() % 2 == 1;
    std::string out;
    for (std::size_t at = 1; good_ && at < text.size(); at += 2) {
      const auto value = parse_number<std::uint8_t>(text.substr(at, 2), 16);
      good_ = value.has_value();
      out.push_back(static_cast<char>(value.value_or(0)));
    }
    return out;
  }
  [[nodiscard]] bool all_taken() const { return good_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool good_ = true;
};

bool parse_node(Words& words, Node& node) {
  const auto kind = words.number<std::uint8_t>();
  if (kind > static_cast<std::uint8_t>(Kind::device)) return false;
  node.kind = static_cast<Kind>(kind);
  node.inode = words.number<std::uint64_t>();
  node.born = words.time();
  node.changed = words.time();
  node.modified = words.time();
  node.accessed = words.time();
  node.mode = words.number<std::uint32_t>();
  node.user = words.number<std::uint32_t>();
  node.group = words.number<std::uint32_t>();
  node.size = words.number<std::uint64_t>();
  node.bytes_used = words.number<std::uint64_t>();
  node.copy = words.number<std::uint64_t>();
  const auto flags = words.number<std::uint32_t>();
  node.linked = (flags & 1U) != 0;
  node.doubtful = (flags & 2U) != 0;
  node.mapped = (flags & 4U) != 0;
  node.target = words.bytes();
  return words.all_taken() && flags < 8;
}

// Every entry leads to a node, every directory but the top has one name, and every other node at least one.
bool hangs_together(const Tree& tree) {
  if (tree.nodes.empty() || tree.nodes.front().kind != Kind::directory) return false;
  std::vector<std::size_t> names(tree.nodes.size());
  for (const Node& node : tree.nodes) {
    if (node.kind != Kind::directory && !node.entries.empty()) return false;
    std::string_view last;
    for (const Entry& entry : node.entries) {
      if (entry.name.empty() || entry.name == "." || entry.name == ".." || entry.name.find('/') != std::string::npos)
        return false;
      if (entry.name <= last || entry.node >= tree.nodes.size()) return false;
      last = entry.name;
      ++names[entry.node];
    }
  }
  if (names.front() != 0) return false;
  for (std::size_t index = 1; index < names.size(); ++index)
    if (names[index] == 0 || (tree.nodes[index].kind == Kind::directory && names[index] != 1)) return false;
  // With one name each, a directory that is not below the top is in a ring.
  std::vector<std::size_t> open{0};
  std::size_t reached = 0;
  while (!open.empty()) {
    const std::size_t index = open.back();
    open.pop_back();
    ++reached;
    for (const Entry& entry : tree.nodes[index].entries)
      if (tree.nodes[entry.node].kind == Kind::directory) open.push_back(entry.node);
  }
  return static_cast<std::size_t>(std::ranges::count(tree.nodes, Kind::directory, &Node::kind)) == reached;
}

}  // namespace

const Entry* find(const Node& directory, std::string_view name) {
  const auto at = std::ranges::lower_bound(directory.entries, name, {}, &Entry::name);
  return at != directory.entries.end() && at->name == name ? &*at : nullptr;
}

std::string join(std::string_view directory, std::string_view name) {
  return directory.empty() ? std::string(name) : fmt::format("{}/{}", directory, name);
}

std::vector<std::string> paths_of(const Tree& tree) {
  std::vector<std::string> paths(tree.nodes.size());
  std::vector<std::size_t> open{0};
  while (!open.empty()) {
    const std::size_t index = open.back();
    open.pop_back();
    for (const Entry& entry : tree.nodes[index].entries) {
      if (!paths[entry.node].empty()) continue;
      paths[entry.node] = join(paths[index], entry.name);
      if (tree.nodes[entry.node].kind == Kind::directory) open.push_back(entry.node);
    }
  }
  return paths;
}

std::string to_text(const Tree& tree) {
  std::string out(kFirstLine);
  const auto add = [&out](auto... words) { ((out += ' ', fmt::format_to(std::back_inserter(out), "{}", words)), ...); };
  for (const Node& node : tree.nodes) {
    out += "\nnode";
    add(static_cast<unsigned>(node.kind), node.inode);
    for (const Time& time : {node.born, node.changed, node.modified, node.accessed})
      add(time.seconds, time.nanoseconds);
    add(node.mode, node.user, node.group, node.size, node.bytes_used, node.copy,
        (node.linked ? 1U : 0U) | (node.doubtful ? 2U : 0U) | (node.mapped ? 4U : 0U), hex(node.target));
    for (const auto& [name, value] : node.labels) {
      out += "\nlabel";
      add(hex(name), hex(value));
    }
    for (const Entry& entry : node.entries) {
      out += "\nentry";
      add(hex(entry.name), entry.node);
    }
  }
  out += "\nend\n";
  return out;
}

Result<Tree> from_text(std::string_view text) {
  Tree tree;
  bool first = true;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (first) {
      if (line != kFirstLine) return malformed(line);
      first = false;
      continue;
    }
    if (line == "end") {
      if (!text.empty() || !hangs_together(tree)) return malformed("the end");
      return tree;
    }
    Words words(line);
    const std::string_view what = words.word();
    if (what == "node") {
      if (!parse_node(words, tree.nodes.emplace_back())) return malformed(line);
      continue;
    }
    if (tree.nodes.empty()) return malformed(line);
    std::string name = words.bytes();
    if (what == "label") {
      tree.nodes.back().labels[std::move(name)] = words.bytes();
    } else if (what == "entry") {
      tree.nodes.back().entries.push_back({std::move(name), words.number<std::size_t>()});
    } else {
      return malformed(line);
    }
    if (!words.all_taken()) return malformed(line);
  }
  return malformed("it has no end");
}

}  // namespace relive::files
