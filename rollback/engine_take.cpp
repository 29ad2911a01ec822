// The engine: a snapshot is taken.
#include <time.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/fault.h"
#include "capture/descriptors.h"
#include "capture/memory.h"
#include "capture/process.h"
#include "diff/memory.h"
#include "rollback/engine_state.h"
#include "rollback/living.h"
#include "rollback/rest.h"
#include "rollback/shared_memory.h"
#include "tracking/populated.h"

namespace relive::rollback {

namespace {

std::int64_t realtime_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

Result<void> no_unread_events(const model::DescriptorTable& table) {
  for (const model::Descriptor& descriptor : table.descriptors) {
    const auto* const set = std::get_if<model::InotifySet>(&table.open_files[descriptor.open_file].object);
    if (set != nullptr && set->unread != 0)
      return fail(
          ErrorKind::refused, fmt::format("descriptor {} (inotify instance) has unread events", descriptor.fd.value),
          "--take-events remembers them; they are out of the queue for a moment, and lost if relive is killed in it");
  }
  return {};
}

std::string join(const std::vector<std::string>& lines) {
  std::string all;
  for (const std::string& line : lines) all += (all.empty() ? "" : "; ") + line;
  return all;
}

}  // namespace

// The contents of memory: all that is populated the first time, later only what may have changed since.
Result<void> Engine::State::take_contents(parasite::Visit& visit, Member& member, const model::Memory& all,
                                          TaskPart& part, SnapshotReport& report) {
  const model::Memory memory = own_part(all, part.not_its_own);
  const bool first = member.tracker == nullptr;
  if (!member.store) member.store.emplace(RELIVE_TRY(tracking::PageStore::create(visit)));
  if (first) {
    RELIVE_TRY(fault_point("snapshot: make the tracker"));
    member.tracker = RELIVE_TRY(tracking::Tracker::create(*tracker, visit));
  }
  tracking::Ranges changed;
  tracking::Ranges to_save;
  if (first) {
    to_save = changed = RELIVE_TRY(tracking::populated(visit, memory));
  } else {
    changed = RELIVE_TRY(member.tracker->changed(visit, memory, member.current, *member.store));
    to_save = RELIVE_TRY(tracking::populated(visit, memory, changed));
  }
  RELIVE_TRY(fault_point("snapshot: save pages"));
  const auto runs = RELIVE_TRY(member.store->save(visit, to_save, tracking::zero_backed(memory)));
  for (const tracking::PageRun& run : runs) report.pages_copied += run.pages;

  // Mappings that are gone, and what changed, lose their old versions; what was saved gets its new one.
  tracking::Ranges mapped;
  for (const model::Mapping& mapping : memory.mappings) mapped.push_back(mapping.range);
  constexpr AddressRange kEverything{0, std::uint64_t{1} << 63};
  part.pages = member.current;
  part.pages.replace(tracking::subtract({kEverything}, tracking::subtract(mapped, changed)), runs);

  member.store->retain(part.pages.runs());
  member.set_current(part.pages);
  member.last_memory = {.memory = all, .maps_text = RELIVE_TRY(capture::read_maps(visit))};
  return member.tracker->arm(visit, memory, changed);
}

// Everything of a snapshot, while the tree stands.
Result<void> Engine::State::take(Stay& stay, Snapshot& snapshot, const SnapshotOptions& options, SnapshotReport& report,
                                 Stopwatch& stopwatch) {
  if (!tracker) tracker = options.tracker.value_or(tracking::best_tracker());
  shared.end();
  RELIVE_TRY(stay.visit_all(agreement, {}, !options.files.directories.empty()));
  snapshot.tree.root = pid;
  snapshot.forest = stay.forest();
  std::vector<parasite::Visit*> tables;
  std::map<pid_t, std::size_t> shared_tables;
  for (const model::TreeTask& one : snapshot.forest.tasks) {
    if (one.sharing.memory != 0)
      return fail(ErrorKind::refused,
                  fmt::format("task {} shares its memory with task {}", one.pid.value, one.sharing.memory),
                  "this release takes no snapshot of such a tree");
  }
  for (const task::FrozenTask& frozen : stay.tree().tasks()) {
    parasite::Visit& visit = *stay.visit(frozen.pid());
    model::Task task = RELIVE_TRY(read_task(visit, nullptr, {}, capture::Depth::full, stopwatch));
    auto& one = *std::ranges::find(snapshot.forest.tasks, task.pid, &model::TreeTask::pid);
    one.child_subreaper = task.process.child_subreaper;
    const auto [table, fresh] =
        shared_tables.try_emplace(one.sharing.files != 0 ? one.sharing.files : -task.pid.value, tables.size());
    if (fresh) tables.push_back(&visit);
    task.table = table->second;
    TaskPart part;
    part.not_its_own = put_back_by(snapshot.tree.tasks, task.memory);
    snapshot.tree.tasks.push_back(std::move(task));
    snapshot.parts.push_back(std::move(part));
  }
  snapshot.tree.descriptors =
      RELIVE_TRY(with_context(capture::read_descriptors(tables, nullptr, nullptr), "reading descriptors"));

  const bool alone = snapshot.tree.tasks.size() == 1;
  std::vector<std::string> unhandled =
      capture::unhandled(snapshot.tree.descriptors, alone ? std::vector<model::Pid>{} : snapshot.owners_of_tables());
  for (const model::Task& task : snapshot.tree.tasks)
    for (const diff::Refusal& refusal : diff::unhandled_memory(task.memory))
      unhandled.push_back(alone ? fmt::format("{}: {}", refusal.object, refusal.reason)
                                : fmt::format("task {}: {}: {}", task.pid.value, refusal.object, refusal.reason));
  if (!unhandled.empty()) return fail(ErrorKind::refused, join(unhandled), "nothing was changed");
  if (!options.take_events) RELIVE_TRY(no_unread_events(snapshot.tree.descriptors));

  RELIVE_TRY(fault_point("snapshot: hold"));
  RELIVE_TRY(capture::hold_descriptors(tables, snapshot.tree.descriptors, snapshot.files));
  for (std::size_t index = 0; index < snapshot.tree.tasks.size(); ++index) {
    const model::Task& task = snapshot.tree.tasks[index];
    TaskPart& part = snapshot.parts[index];
    parasite::Visit& visit = *stay.visit(task.pid);
    RELIVE_TRY(capture::hold_directories(visit, part.holds));
    RELIVE_TRY(capture::hold_mapped_files(visit, task.memory, part.holds));
  }
  if (!options.files.directories.empty()) {
    stopwatch.lap("hold");
    snapshot.directories = RELIVE_TRY(files.take(options.files, memories_of(snapshot.tree.tasks)));
    stopwatch.lap("files");
  }
  std::set<std::size_t> restless;  // tables that only a visited task can read
  for (const model::Descriptor& descriptor : snapshot.tree.descriptors.descriptors)
    if (std::holds_alternative<model::Tunnel>(snapshot.tree.descriptors.open_files[descriptor.open_file].object))
      restless.insert(static_cast<std::size_t>(descriptor.fd.table));
  RELIVE_TRY(fault_point("snapshot: look into queues"));
  RELIVE_TRY(capture::look_into_queues(tables, snapshot.tree.descriptors, snapshot.files));
  // Nothing is refused from here on.
  for (std::size_t index = 0; index < snapshot.tree.tasks.size(); ++index) {
    const model::Task& task = snapshot.tree.tasks[index];
    TaskPart& part = snapshot.parts[index];
    RELIVE_TRY(take_contents(*stay.visit(task.pid), members.at(task.pid), task.memory, part, report));
    part.can_rest = can_rest(task, part.not_its_own) && !restless.contains(task.table);
  }
  shared.begin(stay, snapshot.tree.tasks, members);
  return {};
}

Result<SnapshotReport> Engine::snapshot(const SnapshotOptions& options) {
  State& state = *state_;
  if (options.name.empty()) return fail(ErrorKind::usage, "a snapshot needs a name");
  if (state.find(options.name) != nullptr && !options.replace)
    return fail(ErrorKind::usage, fmt::format("task {} has a snapshot '{}' already", state.pid.value, options.name),
                "give another name, or --replace");
  SnapshotReport report;
  Stopwatch stopwatch;
  auto snapshot = std::make_unique<Snapshot>();
  {
    auto stay = RELIVE_TRY(state.freeze(nullptr));
    if (auto taken = state.take(*stay, *snapshot, options, report, stopwatch); !taken) {
      for (std::size_t index = 0; index < snapshot->parts.size(); ++index)
        if (Member& member = state.members.at(snapshot->tree.tasks[index].pid); member.store)
          member.store->release(snapshot->parts[index].pages.runs());
      state.files.drop(snapshot->directories);
      return std::unexpected(std::move(taken).error());
    }
    for (const model::Task& task : snapshot->tree.tasks) ++state.members.at(task.pid).snapshots;
    const std::uint64_t since = stay->frozen_since_ns();
    snapshot->number = ++state.last_snapshot;
    stay->end_visits();
    for (const auto& [pid, present] : stay->present()) note_rest(*present.member, *present.task, snapshot->number);
    stay->resume();
    report.frozen_us = (now_ns() - since) / 1000;
  }

  SnapshotInfo& info = snapshot->info;
  info.name = options.name;
  info.pid = state.pid;
  info.created_ns = realtime_ns();
  info.tasks = snapshot->tree.tasks.size();
  for (std::size_t index = 0; index < snapshot->parts.size(); ++index) {
    info.threads += snapshot->tree.tasks[index].threads.size();
    info.mappings += snapshot->tree.tasks[index].memory.mappings.size();
    info.pages += snapshot->parts[index].pages.pages();
  }
  info.descriptors = snapshot->tree.descriptors.descriptors.size();
  info.tracker = tracking::tracker_name(state.members.at(state.pid).tracker->kind());
  info.command = snapshot->tree.tasks.front().threads.front().name;
  for (const SavedDirectory& one : snapshot->directories) {
    info.directories.push_back(one.directory->path());
    info.files += one.saved.files;
    info.file_bytes += one.saved.bytes;
  }
  report.info = info;
  report.faults_passed = faults_passed();
  if (Snapshot* old = state.find(options.name); old != nullptr) state.forget(*old);
  state.snapshots.push_back(std::move(snapshot));
  return report;
}

}  // namespace relive::rollback
