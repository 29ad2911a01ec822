#include "files/decide.h"

#include <fmt/format.h>

#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace relive::files {

namespace {

constexpr std::size_t kNone = Work::kNone;

class Decision {
 public:
  Decision(const Tree& saved, const Tree& living, const Suspects& suspects)
      : saved_(saved), living_(living), suspects_(suspects) {
    work_.places.assign(saved.nodes.size(), kNone);
    owner_.assign(living.nodes.size(), kNone);
    touched_.assign(saved.nodes.size(), false);
    in_place_.assign(saved.nodes.size(), false);
  }

  Work take() {
    match();
    adopt(0);
    paths_ = paths_of(saved_);
    find_in_place();
    clear(0, {});
    build_directories(0);
    for (std::size_t index = 0; index < saved_.nodes.size(); ++index)
      if (wanted(index).kind == Kind::directory) build_names(index);
    settle();
    return std::move(work_);
  }

 private:
  [[nodiscard]] const Node& wanted(std::size_t index) const { return saved_.nodes[index]; }
  [[nodiscard]] const Node& now(std::size_t index) const { return living_.nodes[index]; }
  void claim(std::size_t saved, std::size_t living) {
    work_.places[saved] = living;
    owner_[living] = saved;
  }
  void add(Act act, std::string path, std::size_t node = kNone, std::string from = {}) {
    work_.steps.push_back({act, std::move(path), node == kNone ? 0 : node, std::move(from)});
  }

  // The same inodes first.
  void match() {
    std::unordered_map<std::uint64_t, std::size_t> numbers;
    numbers.reserve(living_.nodes.size());
    for (std::size_t index = 0; index < living_.nodes.size(); ++index) numbers[now(index).inode] = index;
    for (std::size_t index = 0; index < saved_.nodes.size(); ++index) {
      const auto at = numbers.find(wanted(index).inode);
      if (at != numbers.end() && same_inode(wanted(index), now(at->second))) claim(index, at->second);
    }
    claim(0, 0);
  }

  // Then what has the name of one that is gone and cannot come back itself: it becomes like it.
  void adopt(std::size_t directory) {
    const std::size_t place = work_.places[directory];
    for (const Entry& entry : wanted(directory).entries) {
      const Node& node = wanted(entry.node);
      const bool can_be_another = node.kind == Kind::directory || (node.kind == Kind::regular && !node.linked);
      if (work_.places[entry.node] == kNone && can_be_another && place != kNone) {
        const Entry* const there = find(now(place), entry.name);
        if (there != nullptr && owner_[there->node] == kNone && now(there->node).kind == node.kind) {
          claim(entry.node, there->node);
          touched_[entry.node] = true;
        }
      }
      if (node.kind == Kind::directory) adopt(entry.node);
    }
  }

  // A directory is in place if it has its name in the directory that it had it in, wherever that one is now. Of the
  // others it is noted under which name they stand already.
  void find_in_place() {
    in_place_[0] = true;
    for (std::size_t index = 0; index < saved_.nodes.size(); ++index) {
      const std::size_t place = work_.places[index];
      if (place == kNone) continue;
      for (const Entry& entry : wanted(index).entries) {
        const Entry* const there = find(now(place), entry.name);
        if (there == nullptr || owner_[there->node] != entry.node) continue;
        in_place_[entry.node] = true;
        if (wanted(entry.node).kind != Kind::directory && !wanted(entry.node).linked)
          standing_.try_emplace(entry.node, join(paths_[index], entry.name));
      }
    }
  }

  // Below a living directory, the deepest first: what has no business there goes. No directory above has moved yet.
  void clear(std::size_t living, const std::string& path) {
    const std::size_t saved = owner_[living];
    for (const Entry& entry : now(living).entries) {
      const std::string name = join(path, entry.name);
      const std::size_t owner = owner_[entry.node];
      if (now(entry.node).kind == Kind::directory) clear(entry.node, name);
      const Entry* const kept = saved == kNone ? nullptr : find(wanted(saved), entry.name);
      if (kept != nullptr && kept->node == owner) continue;
      if (saved != kNone) touched_[saved] = true;
      if (owner != kNone) touched_[owner] = true;
      if (owner != kNone && comes_from_aside(owner)) {
        add(Act::set_aside, name, owner);
        touched_[0] = true;
        continue;
      }
      add(now(entry.node).kind == Kind::directory ? Act::remove_directory : Act::unlink, name);
    }
  }
  // Directories, and files that only the name that they have now keeps: moved, so that they stay the same inode.
  bool comes_from_aside(std::size_t saved) {
    if (wanted(saved).kind == Kind::directory) return true;
    return !wanted(saved).linked && !standing_.contains(saved) && aside_.insert(saved).second;
  }

  // From the top down: every directory stands.
  void build_directories(std::size_t directory) {
    for (const Entry& entry : wanted(directory).entries) {
      if (wanted(entry.node).kind != Kind::directory) continue;
      if (!in_place_[entry.node]) {
        add(work_.places[entry.node] == kNone ? Act::make_directory : Act::place, join(paths_[directory], entry.name),
            entry.node);
        touched_[entry.node] = touched_[directory] = true;
      }
      build_directories(entry.node);
    }
  }

  // Then every name in them.
  void build_names(std::size_t directory) {
    const std::size_t place = work_.places[directory];
    for (const Entry& entry : wanted(directory).entries) {
      const Node& node = wanted(entry.node);
      if (node.kind == Kind::directory) continue;
      const Entry* const there = place == kNone ? nullptr : find(now(place), entry.name);
      if (there != nullptr && owner_[there->node] == entry.node) continue;
      touched_[entry.node] = touched_[directory] = true;
      std::string path = join(paths_[directory], entry.name);
      if (node.linked) {
        add(Act::link, std::move(path), entry.node);
      } else if (const auto name = standing_.find(entry.node); name != standing_.end()) {
        add(Act::link, std::move(path), entry.node, name->second);
      } else {
        standing_[entry.node] = path;
        add(aside_.contains(entry.node) ? Act::place : Act::make, std::move(path), entry.node);
      }
    }
  }

  // All names are right: contents, then attributes, those of the directories last.
  void settle() {
    std::vector<std::size_t> directories;
    for (std::size_t index = 0; index < saved_.nodes.size(); ++index) {
      const Node& node = wanted(index);
      const std::size_t place = work_.places[index];
      const bool gone = place == kNone;
      const bool changed = gone || touched_[index] || now(place).changed != node.changed || node.doubtful;
      const bool suspect = node.mapped || suspects_.contains(node.inode);
      if (node.kind == Kind::regular && (changed || suspect)) add(Act::contents, paths_[index], index);
      if (!changed && now(place).accessed == node.accessed && !(node.kind == Kind::regular && suspect)) continue;
      if (node.kind == Kind::directory)
        directories.push_back(index);
      else
        add(Act::attributes, paths_[index], index);
    }
    for (const std::size_t index : directories) add(Act::attributes, paths_[index], index);
  }

  const Tree& saved_;
  const Tree& living_;
  const Suspects& suspects_;
  Work work_;
  std::vector<std::size_t> owner_;  // living node to saved node
  std::vector<bool> touched_;       // saved nodes that a step before changes
  std::vector<bool> in_place_;
  std::vector<std::string> paths_;
  std::unordered_map<std::size_t, std::string> standing_;  // of saved nodes without a link: a name that leads to them
  std::unordered_set<std::size_t> aside_;                  // and those of them that are set aside
};

}  // namespace

bool same_inode(const Node& one, const Node& other) {
  return one.inode == other.inode && one.kind == other.kind && one.born == other.born;
}

Work decide(const Tree& saved, const Tree& living, const Suspects& suspects) {
  return Decision(saved, living, suspects).take();
}

std::string text(const Step& step) {
  const std::string path = step.path.empty() ? "." : step.path;
  switch (step.act) {
    case Act::unlink:
      return fmt::format("remove {}", path);
    case Act::set_aside:
      return fmt::format("set directory {} aside", path);
    case Act::remove_directory:
      return fmt::format("remove directory {}", path);
    case Act::make_directory:
      return fmt::format("make directory {}", path);
    case Act::place:
      return fmt::format("move a directory back to {}", path);
    case Act::link:
      return step.from.empty() ? fmt::format("link {} to its inode", path)
                               : fmt::format("link {} to {}", path, step.from);
    case Act::make:
      return fmt::format("make {}", path);
    case Act::contents:
      return fmt::format("write what differs of {}", path);
    case Act::attributes:
      return fmt::format("set owner, mode, attributes and times of {}", path);
  }
  return {};
}

}  // namespace relive::files
