#include "files/directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <utility>

#include "base/fault.h"
#include "base/log.h"
#include "files/change_times.h"
#include "files/contents.h"

namespace relive::files {

namespace {

constexpr std::uint64_t kSpare = 1 << 20;  // room that is left for the file system's own needs

Result<UniqueFd> open_top(const std::string& path) {
  UniqueFd top(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!top) {
    if (errno == ENOENT || errno == ENOTDIR) return fail(ErrorKind::not_found, fmt::format("no directory {}", path));
    return fail_errno("open", path);
  }
  return top;
}

std::string one_line(const std::vector<Obstacle>& obstacles, const std::string& top) {
  std::string all;
  for (const Obstacle& one : obstacles)
    all += fmt::format("{}{}: {}", all.empty() ? "" : "; ", join(top, one.path), one.reason);
  return all;
}

std::uint64_t free_bytes(int fd) {
  struct statvfs system{};
  if (::fstatvfs(fd, &system) != 0) return 0;
  return static_cast<std::uint64_t>(::geteuid() == 0 ? system.f_bfree : system.f_bavail) * system.f_frsize;
}

bool is_read_only(int fd) {
  struct statvfs system{};
  return ::fstatvfs(fd, &system) == 0 && (system.f_flag & ST_RDONLY) != 0;
}

std::string mebibytes(std::uint64_t bytes) { return fmt::format("{} MiB", (bytes + (1 << 20) - 1) >> 20U); }

Obstacle no_room(std::uint64_t needed, std::uint64_t free, const std::string& what) {
  return {"", fmt::format("{} {}, and its file system has {}", what, mebibytes(needed), mebibytes(free)),
          "make room there, or name another place with --files-store"};
}

}  // namespace

Directory::Directory(std::string path, UniqueFd top, Store store)
    : path_(std::move(path)), top_(std::move(top)), store_(std::move(store)) {}

Result<std::unique_ptr<Directory>> Directory::open(const std::string& path, const std::string& store) {
  UniqueFd top = RELIVE_TRY(open_top(path));
  if (is_read_only(top.get())) return fail(ErrorKind::refused, fmt::format("{} is on a read-only file system", path));
  Store made = RELIVE_TRY(Store::create(top.get(), path, store));
  std::unique_ptr<Directory> directory(new Directory(path, std::move(top), std::move(made)));
  std::uint64_t number = 0;
  const UniqueFd trial = RELIVE_TRY(directory->store_.create_copy(number));
  const ChangeTimes times = RELIVE_TRY(try_change_times(trial.get()));
  directory->store_.drop_copy(number);
  // What was tried is another file system's behaviour where the store lies elsewhere.
  directory->fine_times_ = times.fine && directory->store_.on_the_same_mount();
  directory->mapped_writes_show_ = times.mapped_writes && directory->store_.on_the_same_mount();
  return directory;
}

void Directory::note(const Node& node) {
  if (node.linked) ++links_[node.inode];
  if (node.copy != 0) ++copies_[node.copy];
}

void Directory::forget(const Node& node) {
  if (node.linked && --links_[node.inode] == 0) {
    links_.erase(node.inode);
    store_.drop_link(node.inode);
  }
  if (node.copy == 0 || --copies_[node.copy] != 0) return;
  copies_.erase(node.copy);
  store_.drop_copy(node.copy);
  std::erase_if(known_, [&](const auto& known) { return known.second.copy == node.copy; });
}

void Directory::drop(const Saved& saved) {
  for (const Node& node : saved.tree.nodes) forget(node);
  store_.drop_tree(saved.number);
}

// One file: its link, its contents, and its change time behind both.
Result<void> Directory::save_contents(Paths& paths, const std::string& path, Node& node, const Suspects& mapped,
                                      Saved& saved) {
  const Place at = RELIVE_TRY(paths.place(path));
  node.linked = RELIVE_TRY(store_.keep(at.directory, at.name, node.inode));
  if (!node.linked && (node.kind == Kind::socket || node.kind == Kind::device))
    return fail(ErrorKind::refused,
                fmt::format("is a {}, of which its copy cannot keep the inode",
                            node.kind == Kind::socket ? "socket" : "device"),
                "name a --files-store on the same file system");
  Node now = RELIVE_TRY(read_node(at, Detail::times));
  if (node.kind == Kind::symlink && now.accessed != node.accessed) {  // it was read by relive
    RELIVE_TRY(put_back_attributes(at, node));
    now = RELIVE_TRY(read_node(at, Detail::times));
  }
  if (now.inode != node.inode || now.kind != node.kind || now.modified != node.modified || now.size != node.size)
    return fail(ErrorKind::busy, "changed while it was saved", "somebody outside the tree writes there");
  node.changed = now.changed;
  node.born = now.born;  // an overlay copies a file up when it is linked, and that one is younger
  if (node.kind != Kind::regular) {
    note(node);
    return {};
  }
  node.mapped = !mapped_writes_show_ || mapped.contains(node.inode);
  ++saved.files;
  saved.bytes += node.size;
  const auto known = known_.find(node.inode);
  const bool have = known != known_.end() && known->second.born == node.born && known->second.changed == node.changed;
  if (node.size != 0 && have && !node.mapped) {
    node.copy = known->second.copy;
  } else if (node.size != 0) {
    const UniqueFd from = RELIVE_TRY(paths.open_file(path, false));
    const UniqueFd to = RELIVE_TRY(store_.create_copy(node.copy));
    const Copied copied = RELIVE_TRY(copy_contents(from.get(), to.get(), node.size, path));
    saved.shared = saved.shared || copied == Copied::shared;
    const Node behind = RELIVE_TRY(read_node(at, Detail::times));
    if (behind.changed != node.changed || behind.size != node.size) {
      store_.drop_copy(std::exchange(node.copy, 0));
      return fail(ErrorKind::busy, "changed while it was copied", "somebody outside the tree writes there");
    }
    known_[node.inode] = {node.born, node.changed, node.copy};
  }
  note(node);
  return {};
}

Result<Saved> Directory::take(const Suspects& mapped) {
  Scan found = RELIVE_TRY(with_context(scan(top_.get(), Detail::all, nullptr, store_.hidden()), path_));
  Saved saved;
  saved.number = ++last_number_;
  saved.tree = std::move(found.tree);
  const std::vector<std::string> paths = paths_of(saved.tree);
  std::uint64_t bytes = 0;
  for (std::size_t index = 0; index < paths.size(); ++index) {
    const Node& node = saved.tree.nodes[index];
    if (node.locked) found.obstacles.push_back({paths[index], "is immutable or append-only (chattr)", {}});
    const auto known = known_.find(node.inode);
    if (known == known_.end() || known->second.changed != node.changed) bytes += node.bytes_used;
  }
  if (!found.obstacles.empty())
    return fail(ErrorKind::refused, one_line(found.obstacles, path_), found.obstacles.front().hint);
  RELIVE_TRY(fault_point("snapshot: save files"));
  const UniqueFd store(::open(store_.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (bytes + kSpare > free_bytes(store.get())) {
    // With reflinks a copy takes no room. Whether there are any is known when one was made.
    const Obstacle full = no_room(bytes, free_bytes(store.get()), "a copy of its files takes");
    if (!store_.on_the_same_mount() || bytes > (free_bytes(store.get()) << 4U))
      return fail(ErrorKind::refused, fmt::format("{}: {}", path_, full.reason), full.hint);
  }
  Paths opened(top_.get());
  Time latest;
  std::size_t index = 0;
  const auto all = [&]() -> Result<void> {
    for (; index < paths.size(); ++index) {
      Node& node = saved.tree.nodes[index];
      if (node.kind == Kind::directory) continue;
      RELIVE_TRY(with_context(save_contents(opened, paths[index], node, mapped, saved), join(path_, paths[index])));
    }
    for (const Node& node : saved.tree.nodes) latest = std::max(latest, node.changed);
    if (!fine_times_) let_pass(latest);
    for (Node& node : saved.tree.nodes) node.doubtful = !fine_times_ && too_fresh(node.changed);
    RELIVE_TRY(fault_point("snapshot: save the list of files"));
    return store_.save_tree(saved.number, saved.tree);
  }();
  if (all) return saved;
  for (std::size_t taken = 0; taken < std::min(index, paths.size()); ++taken) forget(saved.tree.nodes[taken]);
  if (index < paths.size() && saved.tree.nodes[index].linked && !links_.contains(saved.tree.nodes[index].inode))
    store_.drop_link(saved.tree.nodes[index].inode);
  store_.drop_tree(saved.number);
  return std::unexpected(std::move(all).error());
}

Result<Look> Directory::look(const Saved& saved, const Suspects& mapped) const {
  Look look;
  Scan found = RELIVE_TRY(with_context(scan(top_.get(), Detail::times, &saved.tree, store_.hidden()), path_));
  look.living = std::move(found.tree);
  look.obstacles = std::move(found.obstacles);
  look.work = decide(saved.tree, look.living, mapped);
  if (look.obstacles.empty()) look.obstacles = RELIVE_TRY(obstacles(saved, look));
  return look;
}

// What would make a step fail half way is found beforehand, as far as it can be.
Result<std::vector<Obstacle>> Directory::obstacles(const Saved& saved, const Look& look) const {
  std::vector<Obstacle> out;
  struct stat named{};
  struct stat opened{};
  if (::fstat(top_.get(), &opened) != 0) return fail_errno("fstat", path_);
  if (::stat(path_.c_str(), &named) != 0 || named.st_ino != opened.st_ino || named.st_dev != opened.st_dev)
    out.push_back({"", "is another directory than at the snapshot: it was renamed or replaced", {}});
  if (look.work.steps.empty()) return out;
  if (is_read_only(top_.get())) out.push_back({"", "is on a file system that is read-only now", {}});

  Paths paths(top_.get());
  const bool may_give_away = ::geteuid() == 0;
  std::uint64_t growth = 0;
  std::uint64_t rewritten = 0;
  for (const Step& step : look.work.steps) {
    const bool of_a_node = step.act != Act::unlink && step.act != Act::remove_directory;
    if (!of_a_node) continue;
    const Node& node = saved.tree.nodes[step.node];
    const std::size_t place = look.work.places[step.node];
    std::optional<Node> now;
    if (place != Work::kNone) {
      now = look.living.nodes[place];
    } else if (node.linked) {
      const auto link = store_.link_of(node.inode);
      if (!link) {
        out.push_back({step.path, "is gone, and so is what was kept of it: " + link.error().what, {}});
        continue;
      }
      now = RELIVE_TRY(read_node(*link, Detail::times));
    }
    if (now && now->locked) out.push_back({step.path, "is immutable or append-only now (chattr)", "chattr -i -a"});
    if (now && !may_give_away && (now->user != node.user || now->group != node.group))
      out.push_back({step.path, "has another owner now, which only root can change back", {}});
    if (step.act != Act::contents) continue;
    if (node.copy != 0) {
      const auto copy = store_.open_copy(node.copy);
      if (!copy) out.push_back({step.path, "its saved contents are gone: " + copy.error().text(), {}});
    }
    const std::uint64_t used = now ? now->bytes_used : 0;
    growth += node.bytes_used > used ? node.bytes_used - used : 0;
    rewritten += std::min(node.bytes_used, used);
    // A program that is being executed cannot be written to (ETXTBSY): only where its name is where it was.
    if (place == Work::kNone) continue;
    const auto file = paths.open_file(step.path, true);
    if (!file && file.error().errno_value == ETXTBSY)
      out.push_back({step.path, "was changed, and is being executed now: it cannot be written to", {}});
  }
  const std::uint64_t needed = growth + (saved.shared ? rewritten : 0);  // shared blocks are written elsewhere
  if (needed != 0 && needed + kSpare > free_bytes(top_.get()))
    out.push_back(no_room(needed, free_bytes(top_.get()), "going back takes"));
  return out;
}

Result<void> Directory::nobody_has_written(const Look& look) const {
  Paths paths(top_.get());
  const std::vector<std::string> names = paths_of(look.living);
  std::set<std::size_t> seen;
  for (const Step& step : look.work.steps) {
    if (step.act == Act::unlink || step.act == Act::remove_directory) continue;
    const std::size_t place = look.work.places[step.node];
    if (place == Work::kNone || !seen.insert(place).second) continue;
    const Place at = RELIVE_TRY(paths.place(names[place]));
    const auto now = read_node(at, Detail::times);
    if (now && now->changed == look.living.nodes[place].changed && same_inode(*now, look.living.nodes[place])) continue;
    return fail(ErrorKind::busy, fmt::format("{} was changed at this very moment", join(path_, names[place])),
                "somebody outside the tree writes there; nothing was changed");
  }
  return {};
}

Result<void> Directory::prepare(const Saved& saved, const Look& look) {
  if (look.work.steps.empty() || store_.journal()) return {};
  RELIVE_TRY(nobody_has_written(look));
  RELIVE_TRY(fault_point("files: open the journal"));
  return store_.open_journal(saved.number);
}

void Directory::cancel() {
  if (const auto journal = store_.journal(); !journal || journal->begun) return;
  if (const auto closed = store_.close_journal(); !closed) log_warning(closed.error().text());
}

Result<Done> Directory::put_back(Saved& saved, const Look& look) {
  const auto journal = store_.journal();
  if (!journal) return Done{};
  RELIVE_TRY(fault_point("files: begin"));
  if (!journal->begun) RELIVE_TRY(store_.begin_journal());
  Paths paths(top_.get());
  const Done done = RELIVE_TRY(with_context(carry_out(paths, store_, saved.tree, look.work), path_));
  RELIVE_TRY(note_change_times(saved, look.work));
  RELIVE_TRY(fault_point("files: close the journal"));
  RELIVE_TRY(store_.close_journal());
  return done;
}

// From now on what was put back has these change times, and directories that were made again their new numbers.
Result<void> Directory::note_change_times(Saved& saved, const Work& work) {
  Paths paths(top_.get());
  for (const Step& step : work.steps) {
    if (step.act != Act::attributes) continue;
    Node& node = saved.tree.nodes[step.node];
    const Node now = RELIVE_TRY(read_node(RELIVE_TRY(paths.place(step.path)), Detail::times));
    node.changed = now.changed;
    node.doubtful = !fine_times_ && too_fresh(now.changed);
    node.inode = now.inode;
    node.born = now.born;
    if (node.copy != 0) known_[node.inode] = {node.born, node.changed, node.copy};
  }
  return {};
}

std::vector<Change> Directory::changes(const Saved& saved, const Look& look) const {
  std::vector<Change> out;
  std::set<std::string> named;
  const auto add = [&](Sign sign, const std::string& path, const char* text) {
    if (named.insert(path).second) out.push_back({sign, join(path_, path), text});
  };
  for (const Step& step : look.work.steps) {
    switch (step.act) {
      case Act::unlink:
      case Act::remove_directory:
        if (!named.contains(step.path)) out.push_back({Sign::added, join(path_, step.path), "made since"});
        break;
      case Act::set_aside:
        break;
      case Act::make_directory:
      case Act::link:
      case Act::make:
        add(Sign::removed, step.path, "removed, or replaced, since");
        break;
      case Act::place:
        add(Sign::removed, step.path, "renamed since");
        break;
      case Act::contents: {
        const std::size_t place = look.work.places[step.node];
        const Node& node = saved.tree.nodes[step.node];
        if (place == Work::kNone || look.living.nodes[place].modified == node.modified) break;
        add(Sign::changed, step.path, "written since");
        break;
      }
      case Act::attributes:
        if (saved.tree.nodes[step.node].kind == Kind::directory) break;
        if (const std::size_t place = look.work.places[step.node];
            place != Work::kNone && look.living.nodes[place].changed != saved.tree.nodes[step.node].changed)
          add(Sign::changed, step.path, "attributes changed since");
        break;
    }
  }
  return out;
}

bool Directory::unfinished(const std::string& path, const std::string& store) {
  return std::ranges::any_of(Store::left_behind(path, store), Store::has_journal_at);
}

bool Directory::has_journal(const std::string& path, const std::string& store) {
  return std::ranges::any_of(Store::all_of(path, store), Store::has_journal_at);
}

Result<Done> Directory::finish(const std::string& path, const std::string& store, Others others) {
  Done all;
  for (const std::string& place : Store::left_behind(path, store)) {
    Store found = RELIVE_TRY(Store::reopen(place));
    const auto journal = found.journal();
    if (!journal) continue;
    if (!journal->begun && others == Others::run) {
      RELIVE_TRY(found.close_journal());
      continue;
    }
    Saved saved;
    saved.number = journal->tree;
    saved.tree = RELIVE_TRY(found.load_tree(journal->tree));
    UniqueFd top = RELIVE_TRY(open_top(path));
    Directory directory(path, std::move(top), std::move(found));
    const Look seen = RELIVE_TRY(directory.look(saved, {}));
    if (!seen.obstacles.empty())
      return fail(ErrorKind::refused, one_line(seen.obstacles, path), seen.obstacles.front().hint);
    const Done done = RELIVE_TRY(directory.put_back(saved, seen));
    all.files += done.files;
    all.bytes += done.bytes;
    if (directory.store_.journal()) RELIVE_TRY(directory.store_.close_journal());
  }
  return all;
}

}  // namespace relive::files
