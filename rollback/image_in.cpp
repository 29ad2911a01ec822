#include "rollback/image_in.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <utility>

#include "image/machine.h"
#include "image/read.h"
#include "rollback/shared_memory.h"
#include "task/procfs.h"
#include "task/stat_text.h"

namespace relive::rollback {

namespace {

bool is_zombie(const image::ImagedTask& task) {
  return task.state == image::TaskState::dead || task.state == image::TaskState::zombie;
}

// All tables of the image as one, and who has which.
class Tables {
 public:
  explicit Tables(Arrival& arrival) : arrival_(arrival), all_(arrival.snapshot.tree.descriptors) {}

  // Takes in the table of a task. Returns its number.
  std::size_t add(std::size_t task) {
    const image::ImagedTask& from = arrival_.image.tasks[task];
    if (from.shared.files != 0) {
      const auto [known, fresh] = tables_.try_emplace(from.shared.files, count_);
      if (!fresh) return known->second;
    }
    const std::size_t number = count_++;
    const int table = static_cast<int>(number);
    std::vector<std::size_t> index_of;
    for (std::size_t file = 0; file < from.descriptors.open_files.size(); ++file)
      index_of.push_back(add_file(task, file, table));
    for (model::Descriptor descriptor : from.descriptors.descriptors) {
      descriptor.fd.table = table;
      descriptor.open_file = index_of[descriptor.open_file];
      all_.descriptors.push_back(descriptor);
    }
    return number;
  }

  // Entries by an old number know their file by its id until all files are there.
  void find_watched_by_old_numbers() {
    for (model::OpenFile& file : all_.open_files) {
      auto* const set = std::get_if<model::EpollSet>(&file.object);
      if (set == nullptr) continue;
      for (model::EpollEntry& entry : set->entries) {
        if (!entry.file) continue;
        const auto known = files_.find(static_cast<std::uint32_t>(*entry.file));
        entry.file = known == files_.end() ? std::nullopt : std::optional(known->second);
      }
    }
  }

  // What an epoll set watches is marked, also where the image does not tell.
  void mark_watched() {
    for (model::OpenFile& file : all_.open_files) {
      const auto* const set = std::get_if<model::EpollSet>(&file.object);
      if (set == nullptr) continue;
      for (const model::EpollEntry& entry : set->entries) {
        const auto at = std::ranges::lower_bound(all_.descriptors, entry.fd, {}, &model::Descriptor::fd);
        if (entry.stale) {
          if (entry.file) all_.open_files[*entry.file].watched = true;
        } else if (at != all_.descriptors.end() && at->fd == entry.fd)
          all_.open_files[at->open_file].watched = true;
      }
    }
  }

 private:
  std::size_t add_file(std::size_t task, std::size_t file, int table) {
    const image::ImagedTask& from = arrival_.image.tasks[task];
    const auto [known, fresh] = files_.try_emplace(from.file_ids[file], all_.open_files.size());
    model::OpenFile made = from.descriptors.open_files[file];
    for (model::FileLock& lock : made.locks) lock.table = table;
    if (!fresh) {  // the locks of the description were taken through it once, those of a table by each
      for (const model::FileLock& lock : made.locks)
        if (lock.kind == model::LockKind::posix) all_.open_files[known->second].locks.push_back(lock);
      return known->second;
    }
    if (auto* const set = std::get_if<model::EpollSet>(&made.object))
      for (model::EpollEntry& entry : set->entries) entry.fd.table = table;
    if (auto* const queue = std::get_if<model::MessageQueue>(&made.object)) queue->notified = table;
    // A memfd that was never seen alive is told apart by the object that has its contents.
    if (auto* const regular = std::get_if<model::RegularFile>(&made.object);
        regular != nullptr && regular->memory && regular->identity == model::FileIdentity{})
      if (const auto object = from.memory_files.find(file); object != from.memory_files.end())
        regular->identity = {.device = 0, .inode = object->second};
    all_.open_files.push_back(std::move(made));
    arrival_.files.push_back({task, file});
    return known->second;
  }

  Arrival& arrival_;
  model::DescriptorTable& all_;
  std::map<std::uint32_t, std::size_t> tables_;  // by ImagedTask::shared.files
  std::map<std::uint32_t, std::size_t> files_;   // by id
  std::size_t count_ = 0;
};

model::TreeTask kin_of(const image::ImagedTask& from) {
  const model::Process& process = from.task.process;
  model::TreeTask kin;
  kin.pid = from.task.pid;
  kin.parent = {process.parent};
  kin.group = {process.group};
  kin.session = {process.session};
  kin.exit_signal = from.exit_signal;
  kin.child_subreaper = process.child_subreaper;
  if (is_zombie(from)) {
    kin.state = model::TaskState::zombie;
    kin.status = static_cast<int>(from.exit_code);
  }
  return kin;
}

// What tasks that have to be forked execute: where it is not there any more, that is told when one has to
// (rollback/blank.h).
void find_executables(Snapshot& snapshot) {
  for (std::size_t index = 0; index < snapshot.tree.tasks.size(); ++index) {
    model::Process& process = snapshot.tree.tasks[index].process;
    UniqueFd found(::open(process.executable.c_str(), O_PATH | O_CLOEXEC));
    struct stat seen{};
    if (!found || ::fstat(found.get(), &seen) != 0 || !S_ISREG(seen.st_mode)) continue;
    if (process.executable_inode == 0) {  // an image of another program's: it tells the path only
      process.executable_inode = seen.st_ino;
      process.executable_device = seen.st_dev;
    }
    if (process.executable_inode == seen.st_ino && process.executable_device == seen.st_dev)
      snapshot.parts[index].holds.executable = std::move(found);
  }
}

// Equal ids in two tasks become the least pid that has them.
void share(std::vector<model::TreeTask>& forest, const image::Image& image, pid_t model::Sharing::* to,
           std::uint32_t image::SharedObjects::* from) {
  std::map<std::uint32_t, std::vector<pid_t>> users;
  for (const image::ImagedTask& task : image.tasks)
    if (!is_zombie(task) && task.shared.*from != 0) users[task.shared.*from].push_back(task.task.pid.value);
  for (const auto& [id, pids] : users) {
    if (pids.size() < 2) continue;
    for (model::TreeTask& task : forest)
      if (std::ranges::find(pids, task.pid.value) != pids.end()) task.sharing.*to = *std::ranges::min_element(pids);
  }
}

}  // namespace

Result<std::unique_ptr<Arrival>> read_arrival(const std::string& directory, std::optional<model::Pid> root,
                                              image::Findings& findings) {
  const auto source = RELIVE_TRY(image::open_directory(directory));
  auto arrival = std::make_unique<Arrival>();
  arrival->image = image::read_image(*source, findings);
  image::check_machine(arrival->image, findings);
  if (findings.count() != 0) return arrival;
  const model::Pid imaged = arrival->image.tasks.front().task.pid;
  if (root && imaged != *root)
    return fail(ErrorKind::refused,
                fmt::format("the image is of task {}, and {} is another one", imaged.value, root->value),
                "a task keeps its pid: apply the image to the task that it was taken of");
  arrival->snapshot.info.name = directory;
  arrival->snapshot.info.pid = imaged;
  snapshot_of(*arrival);
  find_executables(arrival->snapshot);
  return arrival;
}

void snapshot_of(Arrival& arrival) {
  Snapshot& snapshot = arrival.snapshot;
  snapshot.tree.root = snapshot.info.pid;
  Tables tables(arrival);
  for (std::size_t index = 0; index < arrival.image.tasks.size(); ++index) {
    const image::ImagedTask& from = arrival.image.tasks[index];
    snapshot.forest.tasks.push_back(kin_of(from));
    if (is_zombie(from)) continue;
    model::Task task = from.task;
    task.table = tables.add(index);
    TaskPart part;
    part.not_its_own = put_back_by(snapshot.tree.tasks, task.memory);
    snapshot.tree.tasks.push_back(std::move(task));
    snapshot.parts.push_back(std::move(part));
    arrival.tasks.push_back(index);
  }
  std::ranges::sort(snapshot.tree.descriptors.descriptors, {}, &model::Descriptor::fd);
  tables.find_watched_by_old_numbers();
  tables.mark_watched();
  auto& forest = snapshot.forest.tasks;
  share(forest, arrival.image, &model::Sharing::memory, &image::SharedObjects::memory);
  share(forest, arrival.image, &model::Sharing::files, &image::SharedObjects::files);
  share(forest, arrival.image, &model::Sharing::file_system, &image::SharedObjects::fs);
  share(forest, arrival.image, &model::Sharing::handlers, &image::SharedObjects::signal_actions);
  std::ranges::sort(forest, {}, &model::TreeTask::pid);
}

namespace {

std::int32_t own_terminal() {
  const auto stat = task::read_proc(model::Pid{::getpid()}, "stat");
  return stat ? task::stat_number<std::int32_t>(*stat, 7).value_or(0) : 0;
}

void complete_thread(model::Thread& thread, const model::Task& now) {
  const auto same = std::ranges::find(now.threads, thread.tid, &model::Thread::tid);
  const model::Thread& like = same != now.threads.end() ? *same : now.threads.front();
  thread.affinity = like.affinity;
  thread.io_priority = like.io_priority;
  thread.timer_slack_ns = like.timer_slack_ns;
  thread.scheduling.flags = like.scheduling.flags;
  thread.rseq.flags = like.rseq.flags;
  thread.credentials.seccomp_filters = like.credentials.seccomp_filters;
}

}  // namespace

void bring_home(Arrival& arrival, const model::Forker& relive) {
  Snapshot& snapshot = arrival.snapshot;
  const auto inside = [&](model::Pid pid) {
    return std::ranges::find(snapshot.forest.tasks, pid, &model::TreeTask::pid) != snapshot.forest.tasks.end();
  };
  for (model::TreeTask& task : snapshot.forest.tasks) {
    if (!inside(task.parent)) task.parent = relive.pid;
    if (inside(task.session)) continue;
    if (!inside(task.group)) task.group = relive.group;
    arrival.notes.push_back(fmt::format("task {} was in session {}, which is not in the image; it is in {} now",
                                        task.pid.value, task.session.value, relive.session.value));
    task.session = relive.session;
    if (const auto index = snapshot.index_of(task.pid))
      snapshot.tree.tasks[*index].process.controlling_terminal = own_terminal();
  }
}

void complete(Arrival& arrival, const Living& living) {
  Snapshot& snapshot = arrival.snapshot;
  for (model::TreeTask& task : snapshot.forest.tasks) {
    const auto now = std::ranges::find(living.forest.tasks, task.pid, &model::TreeTask::pid);
    if (now == living.forest.tasks.end()) continue;
    if (arrival.image.ours) continue;
    task.exit_signal = now->exit_signal;
    if (task.pid == snapshot.tree.root) task.parent = now->parent;
  }
  if (arrival.image.ours) return;
  for (std::size_t index = 0; index < living.tasks.size(); ++index) {
    if (!living.tasks[index]) continue;
    const model::Task& now = *living.tasks[index];
    model::Task& task = snapshot.tree.tasks[index];
    for (model::Thread& thread : task.threads) complete_thread(thread, now);
    task.process.namespaces = now.process.namespaces;
    task.process.controlling_terminal = now.process.controlling_terminal;
  }
}

}  // namespace relive::rollback
