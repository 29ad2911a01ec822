#include "rollback/image_out.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "base/clock.h"
#include "base/fault.h"
#include "rollback/protocol.h"
#include "task/procfs.h"

namespace relive::rollback {

namespace {

constexpr std::size_t kNone = ~std::size_t{0};

// One task of the snapshot as the image has it: its place in Snapshot::tree, and which of the tree's open files its own
// table leads to.
struct Place {
  std::size_t task = kNone;  // kNone: it is a zombie
  std::vector<std::size_t> open_files;
};

class SnapshotContents : public image::Contents {
 public:
  SnapshotContents(const SnapshotParts& parts, std::vector<Place> places) : parts_(parts), places_(std::move(places)) {}

  [[nodiscard]] std::vector<Pages> pages(std::size_t task) const override {
    const std::size_t index = places_[task].task;
    std::vector<Pages> found;
    if (index == kNone) return found;
    for (const tracking::PageRun& run : parts_.snapshot->parts[index].pages.runs())
      found.push_back({run.address, parts_.stores[index]->bytes(run.slot, run.pages)});
    add_vdso(found, memory_of(task));
    return found;
  }

  [[nodiscard]] int open_file(std::size_t task, std::size_t index) const override {
    const capture::FileHolds& files = parts_.snapshot->files;
    const std::size_t file = places_[task].open_files[index];
    for (const auto* held : {&files.contents, &files.open_files, &files.references})
      if (const auto at = held->find(file); at != held->end() && at->second) return opened_anew(at->second.get());
    return -1;
  }

  [[nodiscard]] int mapped_file(std::size_t task, std::uint64_t begin) const override {
    const capture::Holds& holds = parts_.snapshot->parts[places_[task].task].holds;
    // One hold stands for all mappings of a file (model::hold_key).
    for (const model::Mapping& mapping : memory_of(task).mappings) {
      if (mapping.range.begin != begin) continue;
      const auto at = holds.mapped_files.find(model::hold_key(memory_of(task), mapping));
      if (at != holds.mapped_files.end() && at->second) return opened_anew(at->second.get());
    }
    return -1;
  }

 private:
  [[nodiscard]] const model::Memory& memory_of(std::size_t task) const {
    return parts_.snapshot->tree.tasks[places_[task].task].memory;
  }

  // Every 64-bit program of a kernel has the same, and so have we.
  static void add_vdso(std::vector<Pages>& pages, const model::Memory& memory) {
    const auto* const ours = reinterpret_cast<const std::byte*>(::getauxval(AT_SYSINFO_EHDR));
    for (const model::Mapping& mapping : memory.mappings) {
      if (mapping.name != "[vdso]" || ours == nullptr) continue;
      const auto at = std::ranges::lower_bound(pages, mapping.range.begin, {}, &Pages::address);
      pages.insert(at, {mapping.range.begin, {ours, mapping.range.size()}});
    }
  }

  // What is held is the task's own open file, position and locks included: it is left alone.
  int opened_anew(int held) const {
    const std::string link = fmt::format("/proc/self/fd/{}", held);
    return opened_.emplace_back(::open(link.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)).get();
  }

  SnapshotParts parts_;
  std::vector<Place> places_;
  mutable std::vector<UniqueFd> opened_;
};

std::vector<std::uint64_t> auxiliary_vector(model::Pid pid) {
  const auto text = task::read_proc(pid, "auxv");
  if (!text) return {};
  std::vector<std::uint64_t> words(text->size() / sizeof(std::uint64_t));
  std::memcpy(words.data(), text->data(), words.size() * sizeof(std::uint64_t));
  while (words.size() >= 2 && words[words.size() - 1] == 0 && words[words.size() - 2] == 0)
    words.resize(words.size() - 2);
  return words;
}

const model::TreeTask* in_forest(const Snapshot& snapshot, model::Pid pid) {
  const auto at = std::ranges::find(snapshot.forest.tasks, pid, &model::TreeTask::pid);
  return at == snapshot.forest.tasks.end() ? nullptr : &*at;
}

// The first table that leads to an open file.
int table_of(const Snapshot& snapshot, const model::OpenFile& file) {
  const auto& all = snapshot.tree.descriptors;
  const auto index = static_cast<std::size_t>(&file - all.open_files.data());
  const auto at = std::ranges::find(all.descriptors, index, &model::Descriptor::open_file);
  return at == all.descriptors.end() ? 0 : at->fd.table;
}

// What of a tree is not written yet. One task alone is always written.
Result<void> require_written(const Snapshot& snapshot) {
  const model::Tree& tree = snapshot.tree;
  const auto no = [](std::string what) {
    return fail(ErrorKind::refused, std::move(what),
                "this release writes no image of such a tree; nothing was written");
  };
  for (const model::TreeTask& task : snapshot.forest.tasks) {
    const int pid = task.pid.value;
    if (task.suspended_by.value != 0)
      return no(fmt::format("task {} waits for its vfork(2) child {}", pid, task.suspended_by.value));
    if (task.pid != tree.root && in_forest(snapshot, task.parent) == nullptr)
      return no(fmt::format("the parent of task {} is outside of the tree", pid));
    if (task.sharing.memory != 0 && task.sharing.memory != pid)
      return no(fmt::format("task {} shares its memory with task {}", pid, task.sharing.memory));
  }
  for (const model::OpenFile& file : tree.descriptors.open_files)
    if (const auto* const set = std::get_if<model::EpollSet>(&file.object))
      for (const model::EpollEntry& entry : set->entries)
        if (entry.fd.table != table_of(snapshot, file))
          return no(fmt::format("an epoll set watches {}, which only another task of the tree leads to",
                                model::name_of(entry.fd, snapshot.owners_of_tables())));
  return {};
}

// The tasks, parents first, as a snapshot has them; zombies, which have no children, behind them.
std::vector<const model::TreeTask*> parents_first(const Snapshot& snapshot) {
  std::vector<const model::TreeTask*> order;
  for (const model::Task& task : snapshot.tree.tasks)
    if (const auto* const kin = in_forest(snapshot, task.pid)) order.push_back(kin);
  for (const model::TreeTask& task : snapshot.forest.tasks)
    if (task.state == model::TaskState::zombie) order.push_back(&task);
  return order;
}

// A tree on its way into an image, task by task: what several tables lead to is told once.
class Imaging {
 public:
  explicit Imaging(const Snapshot& snapshot) : snapshot_(snapshot) {}

  image::ImagedTask imaged(const model::TreeTask& kin, Place& place) {
    image::ImagedTask made;
    made.exit_signal = kin.exit_signal;
    const auto& tasks = snapshot_.tree.tasks;
    const auto at = std::ranges::find(tasks, kin.pid, &model::Task::pid);
    if (at == tasks.end()) {
      made.state = image::TaskState::dead;  // as CRIU calls a zombie
      made.exit_code = static_cast<std::uint32_t>(kin.status);
      made.task.pid = kin.pid;
    } else {
      place.task = static_cast<std::size_t>(at - tasks.begin());
      made.task = *at;
      add_table(made, place);
      made.task.table = 0;
      made.auxiliary_vector = auxiliary_vector(kin.pid);
      made.shared.fs = static_cast<std::uint32_t>(kin.sharing.file_system);
      made.shared.files = static_cast<std::uint32_t>(kin.sharing.files);
    }
    made.task.process.parent = kin.parent.value;
    made.task.process.group = kin.group.value;
    made.task.process.session = kin.session.value;
    return made;
  }

 private:
  // A task's own table, as table number 0. `place` gets the open files it leads to.
  void add_table(image::ImagedTask& made, Place& place) {
    const model::DescriptorTable& all = snapshot_.tree.descriptors;
    const int table = static_cast<int>(made.task.table);
    const bool first_of_table = tables_.insert(table).second;
    std::map<std::size_t, std::size_t> known;  // index of the tree's -> own
    for (model::Descriptor descriptor : all.descriptors) {
      if (descriptor.fd.table != table) continue;
      const auto [at, fresh] = known.try_emplace(descriptor.open_file, place.open_files.size());
      if (fresh) {
        place.open_files.push_back(descriptor.open_file);
        made.file_ids.push_back(static_cast<std::uint32_t>(descriptor.open_file) + 1);
        made.descriptors.open_files.push_back(own_file(descriptor.open_file, table, first_of_table));
      }
      descriptor.fd.table = 0;
      descriptor.open_file = at->second;
      made.descriptors.descriptors.push_back(descriptor);
    }
  }

  // The file as a table sees it: locks that go with the file are of the first that has it, those of a table its own.
  model::OpenFile own_file(std::size_t index, int table, bool first_of_table) {
    model::OpenFile file = snapshot_.tree.descriptors.open_files[index];
    const bool first = files_.insert(index).second;
    std::erase_if(file.locks, [&](const model::FileLock& lock) {
      return lock.kind == model::LockKind::posix ? !first_of_table || lock.table != table : !first;
    });
    for (model::FileLock& lock : file.locks) lock.table = 0;
    if (auto* set = std::get_if<model::EpollSet>(&file.object))
      for (model::EpollEntry& entry : set->entries) {
        entry.fd.table = 0;
        if (entry.file) entry.file = *entry.file + 1;  // its id
      }
    if (auto* queue = std::get_if<model::MessageQueue>(&file.object)) queue->notified = 0;
    return file;
  }

  const Snapshot& snapshot_;
  std::set<int> tables_;
  std::set<std::size_t> files_;
};

// Closes everything but stderr, the connection and what the snapshot holds: a copy of the tracker's descriptor would
// keep the task tracked after a drop.
void close_others(const Snapshot& snapshot, int connection) {
  std::vector<unsigned> kept{2, static_cast<unsigned>(connection)};
  const auto keep = [&](const auto& held) {
    for (const auto& [key, fd] : held)
      if (fd) kept.push_back(static_cast<unsigned>(fd.get()));
  };
  keep(snapshot.files.contents);
  keep(snapshot.files.open_files);
  keep(snapshot.files.references);
  for (const TaskPart& part : snapshot.parts) keep(part.holds.mapped_files);
  std::ranges::sort(kept);
  unsigned next = 0;
  for (const unsigned fd : kept) {
    if (fd > next) ::syscall(SYS_close_range, next, fd - 1, 0);
    next = std::max(next, fd + 1);
  }
  ::syscall(SYS_close_range, next, ~0U, 0);
}

// The body of the child: writes, answers, ends.
[[noreturn]] void write_and_answer(const SnapshotParts& parts, const std::string& directory, int connection,
                                   const std::string& fault) {
  ::prctl(PR_SET_NAME, "relive-image");
  close_others(*parts.snapshot, connection);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const std::uint64_t began = now_ns();
  if (const auto plan = FaultPlan::parse(fault)) arm_faults(*plan);
  const auto tell = [&](std::uint64_t done, std::uint64_t all) -> Result<void> {
    // A client that has gone away does not want the image any more.
    return send_frame(connection, encode(Result<Answer>(ImageProgress{done, all})));
  };
  const auto report = write_snapshot(parts, directory, tell);
  Result<Answer> answer = std::unexpected(Error{});
  if (report)
    answer = ImageReport{directory, report->pages, report->bytes, (now_ns() - began) / 1000, faults_passed()};
  else
    answer = std::unexpected(report.error());
  const auto sent = send_frame(connection, encode(answer));
  ::_exit(sent ? 0 : 1);
}

}  // namespace

Result<image::WriteReport> write_snapshot(const SnapshotParts& parts, const std::string& directory,
                                          const image::Progress& progress) {
  RELIVE_TRY(require_written(*parts.snapshot));
  std::vector<image::ImagedTask> tasks;
  std::vector<Place> places;
  Imaging imaging(*parts.snapshot);
  for (const model::TreeTask* const kin : parents_first(*parts.snapshot))
    tasks.push_back(imaging.imaged(*kin, places.emplace_back()));
  return image::write_image(directory, std::move(tasks), SnapshotContents(parts, std::move(places)), progress);
}

Result<ImageWriter> start_image_writer(const SnapshotParts& parts, const std::string& directory, int connection,
                                       const std::string& fault) {
  RELIVE_TRY(require_written(*parts.snapshot));
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("fork", "to write an image");
  if (child == 0) write_and_answer(parts, directory, connection, fault);
  ImageWriter writer;
  writer.pid = child;
  writer.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
  return writer;
}

}  // namespace relive::rollback
