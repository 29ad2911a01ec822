#include "rollback/shared_watch.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/log.h"
#include "base/number.h"
#include "capture/memory.h"
#include "task/procfs.h"
#include "task/stat_text.h"

namespace relive::rollback {

namespace {

constexpr std::string_view kAnonymous = "/dev/zero (deleted)";
constexpr int kLooks = 3;  // at all of /proc, until nobody has gone between its name and its mappings

std::string name_of(const model::Mapping& mapping) { return fmt::format("{}:{}", mapping.device, mapping.inode); }

// The lines of shared anonymous mappings.
std::string anonymous_lines(std::string_view maps) {
  std::string out;
  for (std::size_t at = maps.find(kAnonymous); at != std::string_view::npos; at = maps.find(kAnonymous, at + 1)) {
    const std::size_t before = maps.rfind('\n', at);
    const std::size_t begin = before == std::string_view::npos ? 0 : before + 1;
    out += maps.substr(begin, std::min(maps.find('\n', at), maps.size() - 1) + 1 - begin);
  }
  return out;
}

// "DEVICE INODE" of a line of maps.
std::string_view object_in(std::string_view line) {
  std::size_t at = 0;
  for (int word = 0; word < 3; ++word) at = line.find(' ', at) + 1;
  return line.substr(at, line.find(' ', line.find(' ', at) + 1) - at);
}

std::set<std::string> objects_in(std::string_view lines) {
  std::set<std::string> out;
  for (std::size_t at = 0; at < lines.size(); at = lines.find('\n', at) + 1)
    out.insert(fmt::format(" {} ", object_in(lines.substr(at))));
  return out;
}

// Page faults of children that were waited for.
std::optional<std::uint64_t> faults_of_children(std::string_view stat) {
  std::uint64_t sum = 0;
  for (const int number : {11, 13}) {  // cminflt, cmajflt
    const auto value = task::stat_number<std::uint64_t>(stat, number);
    if (!value) return std::nullopt;
    sum += *value;
  }
  return sum;
}

bool lets_children_go(const model::Process& process) {
  const auto& action = process.actions[SIGCHLD - 1];
  return action.handler == reinterpret_cast<std::uint64_t>(SIG_IGN) || (action.flags & SA_NOCLDWAIT) != 0;
}

template <class Number>
std::optional<Number> field_of(model::Pid pid, int number) {
  const auto stat = task::read_proc(pid, "stat");
  if (!stat) return std::nullopt;
  const auto value = task::stat_number<Number>(*stat, number);
  return value ? std::optional(*value) : std::nullopt;
}

// Memory without a name comes from a parent or is one's own, and execve(2) leaves it behind. So who was started before
// this time has none of the task's: the start of the nearest of its ancestors, or itself, that has executed a program.
std::optional<std::uint64_t> oldest_sharer(model::Pid pid) {
  constexpr std::uint64_t kForkedOnly = 0x40;  // PF_FORKNOEXEC, include/linux/sched.h
  constexpr int kParent = 4, kFlags = 9, kStart = 22;
  while (pid.value > 0) {
    const auto flags = field_of<std::uint64_t>(pid, kFlags);
    if (!flags) return std::nullopt;
    if ((*flags & kForkedOnly) == 0) return field_of<std::uint64_t>(pid, kStart);
    pid = model::Pid{field_of<pid_t>(pid, kParent).value_or(0)};
  }
  return 0;
}

// Does nobody outside of `tree` have one of these mapped? "No" where it cannot be seen.
bool nobody_else_maps(const std::set<std::string>& objects, const std::set<model::Pid>& tree, model::Pid root) {
  const auto oldest = oldest_sharer(root);
  if (!oldest) return false;
  for (int look = 0; look < kLooks; ++look) {
    const std::unique_ptr<DIR, int (*)(DIR*)> all(::opendir("/proc"), ::closedir);
    if (!all) return false;
    bool whole = true;
    while (const dirent* const entry = ::readdir(all.get())) {
      const std::string_view name = entry->d_name;
      const auto number = parse_number<pid_t>(name);
      if (!number) continue;
      const model::Pid pid{*number};
      if (tree.contains(pid)) continue;
      if (const auto start = field_of<std::uint64_t>(pid, 22); start && *start < *oldest) continue;
      const auto maps = task::read_proc(pid, "maps");
      if (!maps && maps.error().kind == ErrorKind::task_died) whole = false;
      if (!maps && maps.error().kind != ErrorKind::task_died) return false;
      if (!maps || maps->find(kAnonymous) == std::string::npos) continue;
      for (const std::string& object : objects)
        if (maps->find(object) != std::string::npos) return false;
    }
    if (whole) return true;
  }
  return false;
}

}  // namespace

std::optional<SharedWatch::Window> SharedWatch::Window::open(model::Pid pid, const model::Mapping& mapping) {
  // Wants CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
  auto file =
      task::open_proc(pid, fmt::format("map_files/{:x}-{:x}", mapping.range.begin, mapping.range.end), O_RDONLY);
  struct stat seen{};
  if (!file || ::fstat(file->get(), &seen) != 0 || seen.st_size <= 0) return std::nullopt;
  const auto bytes = static_cast<std::uint64_t>(seen.st_size);
  void* const here = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file->get(), 0);
  if (here == MAP_FAILED) return std::nullopt;
  return Window(*std::move(file), static_cast<std::byte*>(here), page_ceil(bytes));
}

SharedWatch::Window::~Window() {
  if (here_ != nullptr) ::munmap(here_, bytes_);
}

bool SharedWatch::Window::see() {
  std::vector<AddressRange> data;
  const auto end = static_cast<off_t>(bytes_);
  for (off_t at = ::lseek(file_.get(), 0, SEEK_DATA); at >= 0 && at < end; at = ::lseek(file_.get(), at, SEEK_DATA)) {
    const off_t hole = ::lseek(file_.get(), at, SEEK_HOLE);
    if (hole <= at) return false;
    data.push_back({page_floor(static_cast<std::uint64_t>(at)), page_ceil(static_cast<std::uint64_t>(hole))});
    at = hole;
  }
  seen_.clear();
  return see(tracking::normalize(std::move(data)));
}

bool SharedWatch::Window::see(const tracking::Ranges& only) {
  for (const AddressRange& range : tracking::intersect(only, {{0, bytes_}}))
    if (::madvise(here_ + range.begin, range.size(), MADV_POPULATE_READ) != 0) return false;  // Linux 5.14
  seen_ = tracking::unite(seen_, tracking::intersect(only, {{0, bytes_}}));
  return true;
}

std::optional<tracking::Ranges> SharedWatch::Window::lost(const tracking::Pagemap& own) const {
  const auto begin = reinterpret_cast<std::uint64_t>(here_);
  tracking::Ranges where;
  for (const AddressRange& range : seen_) where.push_back({range.begin + begin, range.end + begin});
  using Is = tracking::PageIs;
  const auto regions = own.scan(where, {.inverted = Is::present, .all = Is::present, .any = 0, .wanted = 0});
  if (!regions) return std::nullopt;
  std::vector<AddressRange> out;
  for (const tracking::PageRegion& region : *regions)
    out.push_back({region.range.begin - begin, region.range.end - begin});
  return tracking::normalize(std::move(out));
}

// A window on the object of each mapping that has none yet.
bool SharedWatch::open_windows(const Watched& watched, model::Pid pid) {
  for (const model::Mapping& mapping : watched.mappings) {
    const std::string name = name_of(mapping);
    const auto known = windows_.find(name);
    if (known != windows_.end()) {
      if (!known->second.see(written_[name])) return false;
      written_[name].clear();
      continue;
    }
    auto window = Window::open(pid, mapping);
    if (!window || !window->see()) return false;
    windows_.emplace(name, *std::move(window));
  }
  return true;
}

std::string_view SharedWatch::watch(Stay& stay, std::span<const model::Task> tasks, const Members& members) {
  const std::map<model::Pid, Watched> known = std::exchange(tasks_, {});
  if (!proven_) windows_.clear();  // what was written is not known
  if (!own_) {
    auto own = tracking::Pagemap::open(model::Pid{::getpid()});
    if (!own || !own->can_scan()) return "the kernel cannot tell";
    own_.emplace(*std::move(own));
  }
  std::set<std::string> objects;
  std::set<model::Pid> tree;
  for (const model::Task& task : tasks) {
    const Member& member = members.at(task.pid);
    tree.insert(task.pid);
    if (const auto before = known.find(task.pid); stay.at_rest(task.pid) && before != known.end()) {
      objects.merge(objects_in(before->second.maps));
      tasks_[task.pid] = before->second;
      continue;
    }
    Watched watched;
    watched.start_time = member.start_time;
    watched.maps = anonymous_lines(member.last_memory.maps_text);
    const auto stat = task::read_proc(task.pid, "stat");
    const auto faults = stat ? faults_of_children(*stat) : std::nullopt;
    auto mappings = capture::parse_maps(watched.maps);
    if (!faults || !mappings || !member.tracker) return "a task cannot be read";
    watched.faults_of_children = *faults;
    watched.mappings = *std::move(mappings);
    objects.merge(objects_in(watched.maps));
    tasks_[task.pid] = std::move(watched);
  }
  if (objects.empty()) return "there is none";
  // Before windows are opened: so our own process, too, is one of the others.
  if (!proven_ && !nobody_else_maps(objects, tree, tasks.front().pid)) return "others may have it mapped";
  for (const auto& [pid, watched] : tasks_) {
    if (!open_windows(watched, pid)) return "its object cannot be opened";
    if (stay.at_rest(pid) && known.contains(pid)) continue;
    tracking::Ranges ranges;
    for (const model::Mapping& mapping : watched.mappings) ranges.push_back(mapping.range);
    const auto noted = members.at(pid).tracker->watch_shared(tracking::normalize(std::move(ranges)));
    if (!noted || !*noted) return "the tracker cannot";
  }
  zombies_ = stay.tree().zombies();
  return {};
}

void SharedWatch::begin(Stay& stay, std::span<const model::Task> tasks, const Members& members) {
  const std::string_view reason = watch(stay, tasks, members);
  valid_ = reason.empty();
  proven_ = valid_;
  if (valid_) return;
  log_debug(fmt::format("shared memory is not watched: {}", reason));
  end();
}

void SharedWatch::end() {
  valid_ = proven_ = false;
  windows_.clear();
  written_.clear();
  tasks_.clear();
}

std::string_view SharedWatch::why_not(Stay& stay, std::span<const std::optional<model::Task>> tasks) const {
  if (!valid_) return "it was not watched";
  if (stay.present().size() != tasks_.size()) return "other tasks";
  for (const auto& [pid, present] : stay.present()) {
    const auto known = tasks_.find(pid);
    if (known == tasks_.end() || known->second.start_time != present.task->start_time() || present.exec_since)
      return "other tasks";
    const auto stat = present.task->stat();
    if (!stat || faults_of_children(*stat) != known->second.faults_of_children) return "a child has ended";
    if (!present.at_rest && anonymous_lines(present.maps_text) != known->second.maps) return "other mappings";
  }
  if (std::ranges::any_of(stay.tree().zombies(),
                          [&](const auto& one) { return std::ranges::find(zombies_, one) == zombies_.end(); }))
    return "a zombie";
  if (std::ranges::any_of(tasks, [](const auto& task) { return !task || lets_children_go(task->process); }))
    return "children may have been let go";
  return {};
}

SharedWatch::Sound SharedWatch::sound(Stay& stay, std::span<const std::optional<model::Task>> tasks) {
  Sound out;
  std::string_view reason = why_not(stay, tasks);
  for (auto& [pid, present] : stay.present()) {
    if (!reason.empty() || present.at_rest) continue;
    const auto pages = present.member->tracker->shared_written();
    if (!pages) reason = "the tracker cannot tell";
    if (!pages) break;
    for (const model::Mapping& mapping : tasks_.at(pid).mappings) {
      std::vector<AddressRange> bytes;
      for (const AddressRange& range : tracking::intersect(*pages, {mapping.range}))
        bytes.push_back(
            {range.begin - mapping.range.begin + mapping.offset, range.end - mapping.range.begin + mapping.offset});
      tracking::Ranges& known = written_[name_of(mapping)];
      known = tracking::unite(known, bytes);
    }
  }
  for (const auto& [name, window] : windows_) {
    if (!reason.empty()) break;
    const auto lost = window.lost(*own_);
    if (!lost) reason = "the kernel cannot tell";
    if (lost) written_[name] = tracking::unite(written_[name], *lost);
  }
  if (!reason.empty()) {
    if (valid_) log_debug(fmt::format("shared memory is compared: {}", reason));
    valid_ = proven_ = false;
    return out;
  }
  for (const auto& [pid, present] : stay.present()) {
    if (present.at_rest) continue;
    std::vector<AddressRange> sound;
    for (const model::Mapping& mapping : tasks_.at(pid).mappings) {
      const AddressRange whole{mapping.offset, mapping.offset + mapping.range.size()};
      for (const AddressRange& bytes : tracking::subtract({whole}, written_[name_of(mapping)]))
        sound.push_back(
            {bytes.begin - mapping.offset + mapping.range.begin, bytes.end - mapping.offset + mapping.range.begin});
    }
    out[pid] = tracking::normalize(std::move(sound));
  }
  return out;
}

}  // namespace relive::rollback
