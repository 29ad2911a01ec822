#include "rollback/engine.h"

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/fault.h"
#include "capture/descriptors.h"
#include "capture/forest.h"
#include "capture/memory.h"
#include "capture/process.h"
#include "diff/memory.h"
#include "diff/pages.h"
#include "parasite/agreement.h"
#include "rollback/image_out.h"
#include "rollback/living.h"
#include "rollback/shared_memory.h"
#include "rollback/snapshot.h"
#include "rollback/stay.h"
#include "rollback/symbols.h"
#include "rollback/way_back.h"
#include "task/procfs.h"
#include "tracking/page_store.h"
#include "tracking/populated.h"

namespace relive::rollback {

namespace {

std::int64_t realtime_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

std::string join(const std::vector<std::string>& lines) {
  std::string all;
  for (const std::string& line : lines) all += (all.empty() ? "" : "; ") + line;
  return all;
}

std::vector<const model::Memory*> memories_of(const model::Tree& tree) {
  std::vector<const model::Memory*> memories;
  for (const model::Task& task : tree.tasks) memories.push_back(&task.memory);
  return memories;
}

std::vector<const model::Memory*> memories_of(const Living& living) {
  std::vector<const model::Memory*> memories;
  for (const auto& task : living.tasks)
    if (task) memories.push_back(&task->memory);
  return memories;
}

// 0: there is no such process.
std::uint64_t start_time_of(model::Pid pid) {
  const auto stat = task::read_proc(pid, "stat");
  if (!stat) return 0;
  const auto start = task::stat_field(*stat, 22);
  std::uint64_t ticks = 0;
  if (start) std::from_chars(start->data(), start->data() + start->size(), ticks);
  return ticks;
}

}  // namespace

struct Engine::State {
  model::Pid pid;
  std::uint64_t start_time = 0;
  UniqueFd pidfd;
  Members members;
  std::optional<parasite::TreeAgreement> agreement;  // once the tree has had two tasks
  std::optional<tracking::TrackerKind> tracker;      // as the first snapshot chose
  std::vector<std::unique_ptr<Snapshot>> snapshots;
  std::uint64_t last_lease = 0;
  KeptFiles files;

  [[nodiscard]] Snapshot* find(std::string_view name) const {
    const auto at = std::ranges::find_if(snapshots, [&](const auto& snapshot) { return snapshot->info.name == name; });
    return at == snapshots.end() ? nullptr : at->get();
  }

  // Stops the tree. `wanted`: the snapshot whose tasks belong to it as well, whoever their parents are now.
  Result<std::unique_ptr<Stay>> freeze(const Snapshot* wanted);

  Result<Snapshot*> require(std::string_view name) const {
    Snapshot* snapshot = find(name);
    if (snapshot != nullptr) return snapshot;
    std::vector<std::string> names;
    for (const auto& known : snapshots) names.push_back(known->info.name);
    return fail(ErrorKind::not_found, fmt::format("task {} has no snapshot '{}'", pid.value, name),
                names.empty() ? "it has none" : "it has: " + join(names));
  }

  Result<void> take(Stay& stay, Snapshot& snapshot, const SnapshotOptions& options, SnapshotReport& report,
                    Stopwatch& stopwatch);
  Result<void> take_contents(parasite::Visit& visit, Member& member, const model::Memory& memory, TaskPart& part,
                             SnapshotReport& report);
  Result<void> way_back(Snapshot& wanted, const RollbackOptions& options, RollbackReport& report);
  Result<void> settle(Stay& stay, const Snapshot& wanted, const Living& living, const Plan& plan);
  // What the living forest stands in: looked for only where a task of the snapshot does not live.
  Result<model::Surroundings> surroundings(Stay& stay, const Snapshot& wanted, const Living& living) const;
  void forget(Snapshot& snapshot);
};

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::open(model::Pid pid) {
  auto state = std::make_unique<State>();
  state->pid = pid;
  state->pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid.value, 0)));
  if (!state->pidfd) return fail(ErrorKind::not_found, fmt::format("no process {}", pid.value));
  state->start_time = start_time_of(pid);
  if (state->start_time == 0) return fail(ErrorKind::not_found, fmt::format("no process {}", pid.value));
  return std::unique_ptr<Engine>(new Engine(std::move(state)));
}

model::Pid Engine::pid() const { return state_->pid; }
int Engine::pidfd() const { return state_->pidfd.get(); }

std::vector<SnapshotInfo> Engine::list() const {
  std::vector<SnapshotInfo> infos;
  for (const auto& snapshot : state_->snapshots) infos.push_back(snapshot->info);
  return infos;
}

const model::Tree* Engine::find(std::string_view name) const {
  const Snapshot* snapshot = state_->find(name);
  return snapshot == nullptr ? nullptr : &snapshot->tree;
}

Result<std::unique_ptr<Stay>> Engine::State::freeze(const Snapshot* wanted) {
  std::vector<model::Pid> also;
  if (wanted != nullptr)
    for (const model::Task& task : wanted->tree.tasks)
      if (task.pid != pid && members.contains(task.pid) && start_time_of(task.pid) == members.at(task.pid).start_time)
        also.push_back(task.pid);
  auto stay = RELIVE_TRY(Stay::freeze(pid, also, members));
  if (stay->tree().tasks().front().start_time() != start_time)
    return fail(ErrorKind::not_found,
                fmt::format("process {} is another one than at the snapshot: the id was reused", pid.value));
  if (stay->present().at(pid).exec_since)
    return fail(ErrorKind::refused,
                fmt::format("task {} executes another program than at the snapshot (execve since)", pid.value),
                "its snapshots are of no use now: `relive drop --all`");
  return stay;
}

Result<SnapshotParts> Engine::parts(std::string_view name) const {
  SnapshotParts parts{RELIVE_TRY(state_->require(name)), {}};
  for (const model::Task& task : parts.snapshot->tree.tasks)
    parts.stores.push_back(&*state_->members.at(task.pid).store);
  return parts;
}

std::uint64_t Engine::lease(std::string_view name) {
  State& state = *state_;
  const Snapshot* snapshot = state.find(name);
  if (snapshot == nullptr) return 0;
  ++state.last_lease;
  for (std::size_t index = 0; index < snapshot->parts.size(); ++index) {
    Member& member = state.members.at(snapshot->tree.tasks[index].pid);
    const auto runs = snapshot->parts[index].pages.runs();
    member.store->retain(runs);
    member.leases[state.last_lease] = {runs.begin(), runs.end()};
  }
  return state.last_lease;
}

void Engine::end_lease(std::uint64_t lease) {
  for (auto& [pid, member] : state_->members) {
    const auto at = member.leases.find(lease);
    if (at == member.leases.end()) continue;
    member.store->release(at->second);
    member.leases.erase(at);
  }
}

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
  RELIVE_TRY(stay.visit_all(agreement));
  snapshot.tree.root = pid;
  snapshot.forest = RELIVE_TRY(capture::read_forest(stay.tree()));
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
    snapshot.directories = RELIVE_TRY(files.take(options.files, memories_of(snapshot.tree)));
    stopwatch.lap("files");
  }
  // Nothing is refused from here on.
  for (std::size_t index = 0; index < snapshot.tree.tasks.size(); ++index) {
    const model::Task& task = snapshot.tree.tasks[index];
    RELIVE_TRY(take_contents(*stay.visit(task.pid), members.at(task.pid), task.memory, snapshot.parts[index], report));
  }
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
    stay->end_visits();
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

void Engine::State::forget(Snapshot& snapshot) {
  for (std::size_t index = 0; index < snapshot.parts.size(); ++index) {
    Member& member = members.at(snapshot.tree.tasks[index].pid);
    member.store->release(snapshot.parts[index].pages.runs());
    --member.snapshots;
  }
  files.drop(snapshot.directories);
  std::erase_if(snapshots, [&](const auto& known) { return known.get() == &snapshot; });
}

Result<model::Surroundings> Engine::State::surroundings(Stay& stay, const Snapshot& wanted,
                                                        const Living& living) const {
  const bool whole = std::ranges::all_of(living.tasks, [](const auto& task) { return task.has_value(); });
  model::Surroundings out;
  if (!whole) out = RELIVE_TRY(capture::read_surroundings(living.forest));
  for (const auto& [task, present] : stay.present()) {
    const auto known = std::ranges::find(wanted.tree.tasks, task, &model::Task::pid);
    if (known == wanted.tree.tasks.end()) continue;
    if (present.exec_since) out.recreate[task] = "executes another program since";
  }
  return out;
}

// Behind a commit, while every thread stands before its goal: what was copied is clean by definition.
Result<void> Engine::State::settle(Stay& stay, const Snapshot& wanted, const Living& living, const Plan& plan) {
  for (std::size_t index = 0; index < wanted.tree.tasks.size(); ++index) {
    const model::Task& task = wanted.tree.tasks[index];
    const TaskPart& part = wanted.parts[index];
    const TaskPlan& done = *plan.tasks[index];
    Member& member = members.at(task.pid);
    parasite::Visit& visit = *stay.visit(task.pid);
    const model::Memory own = own_part(task.memory, part.not_its_own);
    const bool blank = stay.blanks().contains(diff::task_actor(task.pid));
    tracking::Ranges touched = tracking::unite(living.changed[index], done.memory.made);
    for (const auto& copy : done.pages.copies)
      touched = tracking::unite(touched, {{copy.to, copy.to + copy.pages * kPageSize}});
    touched = tracking::unite(touched, done.pages.drops);
    if (blank) {
      if (auto made = tracking::Tracker::create(*tracker, visit)) member.tracker = *std::move(made);
      touched.clear();  // the first call arms all
    }
    const auto armed = member.tracker->arm(visit, own, touched);
    member.set_current(part.pages);
    // The task is at the snapshot all the same; from now on every page is compared.
    if (!armed) member.tracker = RELIVE_TRY(tracking::Tracker::create(tracking::TrackerKind::compare, visit));
    const bool remapped = blank || !done.memory.operations.empty() ||
                          stay.present().at(task.pid).maps_text != member.last_memory.maps_text;
    if (remapped)
      if (auto text = capture::read_maps(visit))
        member.last_memory = {.memory = task.memory, .maps_text = *std::move(text)};
  }
  return {};
}

Result<void> Engine::State::way_back(Snapshot& wanted, const RollbackOptions& options, RollbackReport& report) {
  Stopwatch stopwatch;
  auto stay = RELIVE_TRY(freeze(&wanted));
  stopwatch.lap("freeze");
  Passage passage;
  auto outcome = [&]() -> Result<void> {
    const bool with_files = !wanted.directories.empty();
    RELIVE_TRY(stay->visit_all(agreement, [&](parasite::Visit& visit) { keep_clear(visit, wanted); }, with_files));
    stopwatch.lap("visit");
    Living living = RELIVE_TRY(look(*stay, wanted, capture::Depth::outside, stopwatch));
    Plan plan = make_plan(*stay, wanted, living, RELIVE_TRY(surroundings(*stay, wanted, living)));
    stopwatch.lap("plan");
    report.refusals = plan.refusals();
    if (options.dry_run) report.plan = plan.texts();
    FilesPlan files_plan;
    if (with_files) {
      files_plan = RELIVE_TRY(look_at_files(wanted.directories, memories_of(living)));
      for (const diff::Refusal& refusal : files_plan.refusals) report.refusals.push_back(refusal);
      if (options.dry_run) report.plan.insert(report.plan.end(), files_plan.texts.begin(), files_plan.texts.end());
      stopwatch.lap("look at files");
    }
    const bool goes = !options.dry_run && report.refusals.empty();
    passage.shares_of_others = files_plan.empty() ? 0 : 1;
    if (goes) RELIVE_TRY(prepare_files(wanted.directories, files_plan));
    auto carried = goes ? carry_out(*stay, wanted, living, plan, members, agreement, passage, report.notes, stopwatch)
                        : Result<void>();
    report.descriptors = plan.descriptors.operations.size();
    for (const auto& task : plan.tasks) {
      if (!task) continue;
      report.threads += task->changed_threads;
      report.pages += task->pages.pages();
      report.mappings += task->memory.operations.size();
    }
    for (const std::string& note : plan.notes()) report.notes.push_back(note);
    if (!passage.committed) {
      cancel_files(wanted.directories);
      if (carried || !passage.irreversible) return carried;
      report.fate = apply::Fate::stopped;
      for (const auto& [one, present] : stay->present()) ::kill(one.value, SIGSTOP);
      return carried;
    }
    if (!passage.broken) {
      if (auto settled = settle(*stay, wanted, living, plan); !settled) carried = settled;
      stopwatch.lap("arm");
    }
    if (!passage.broken && passage.shares_of_others != 0) {
      auto done = put_back_files(wanted.directories, files_plan);
      if (done) {
        report.files = done->files;
        report.file_bytes = done->bytes;
      } else {
        carried = with_context(Result<void>(std::unexpected(std::move(done).error())), "putting files back");
        passage.broken = true;
        agreement->broken();
        stay->break_off();
      }
      stopwatch.lap("files");
    }
    if (agreement && !passage.broken) agreement->all_done();
    const auto departed = stay->depart();
    report.frozen_us = (now_ns() - stay->frozen_since_ns()) / 1000;
    stopwatch.lap("depart");
    if (carried && !departed) {
      carried = departed;
      passage.broken = true;
    }
    report.fate = passage.broken ? apply::Fate::stopped : apply::Fate::done;
    return carried;
  }();
  const std::uint64_t since = stay->frozen_since_ns();
  stay.reset();
  if (report.frozen_us == 0) report.frozen_us = (now_ns() - since) / 1000;
  report.stages = stopwatch.take();
  return outcome;
}

Result<RollbackReport> Engine::rollback(const RollbackOptions& options) {
  State& state = *state_;
  Snapshot& wanted = *RELIVE_TRY(state.require(options.name));
  RollbackReport report;
  report.tracker = tracking::tracker_name(state.members.at(state.pid).tracker->kind());
  report.tasks = wanted.tree.tasks.size();
  auto outcome = state.way_back(wanted, options, report);
  report.faults_passed = faults_passed();
  if (outcome) return report;
  const ErrorKind kind = outcome.error().kind;
  if (report.fate == apply::Fate::untouched && (kind == ErrorKind::not_found || kind == ErrorKind::task_died))
    return std::unexpected(std::move(outcome).error());
  report.error = std::move(outcome).error();
  if (report.fate == apply::Fate::stopped && options.on_failure == OnFailure::kill) {
    for (const model::Task& task : wanted.tree.tasks) ::kill(task.pid.value, SIGKILL);
    report.fate = apply::Fate::killed;
  }
  return report;
}

Result<DiffReport> Engine::diff(std::string_view name) {
  State& state = *state_;
  const Snapshot& wanted = *RELIVE_TRY(state.require(name));
  DiffReport report;
  Stopwatch stopwatch;
  auto stay = RELIVE_TRY(state.freeze(&wanted));
  RELIVE_TRY(stay->visit_all(state.agreement, [&](parasite::Visit& visit) { keep_clear(visit, wanted); }));
  const Living living = RELIVE_TRY(look(*stay, wanted, capture::Depth::full, stopwatch));
  const Plan plan = make_plan(*stay, wanted, living, RELIVE_TRY(state.surroundings(*stay, wanted, living)));
  const FilesPlan files_plan = RELIVE_TRY(look_at_files(wanted.directories, memories_of(living)));
  std::vector<std::vector<std::uint64_t>> words(plan.tasks.size());
  for (std::size_t index = 0; index < plan.tasks.size(); ++index) {
    if (!plan.tasks[index]) continue;
    const model::Pid pid = plan.pids[index];
    words[index] = changed_words(*stay->visit(pid), plan.tasks[index]->pages, *state.members.at(pid).store,
                                 living.tasks[index]->memory);
  }
  const std::uint64_t since = stay->frozen_since_ns();
  stay.reset();
  report.frozen_us = (now_ns() - since) / 1000;
  report.differences = plan.differences();
  for (diff::Difference& difference : file_differences(wanted.directories, files_plan))
    report.differences.push_back(std::move(difference));
  for (std::size_t index = 0; index < plan.tasks.size(); ++index) {
    if (!plan.tasks[index]) continue;
    const model::Task& task = wanted.tree.tasks[index];
    auto pages = diff::describe_pages(plan.tasks[index]->pages, task.memory);
    name_pages(pages, task, words[index]);
    for (diff::Difference& difference : pages) {
      if (!plan.alone()) difference.object = fmt::format("task {}: {}", task.pid.value, difference.object);
      report.differences.push_back(std::move(difference));
    }
  }
  report.refusals = plan.refusals();
  for (const diff::Refusal& refusal : files_plan.refusals) report.refusals.push_back(refusal);
  return report;
}

Result<void> Engine::drop(std::string_view name) {
  State& state = *state_;
  Snapshot* snapshot = RELIVE_TRY(state.require(name));
  if (state.snapshots.size() == 1) return drop_all();
  state.forget(*snapshot);
  return {};
}

Result<void> Engine::drop_all() {
  State& state = *state_;
  // The tasks of all snapshots belong to the tree, whoever their parents are now.
  std::vector<model::Pid> also;
  for (auto& [pid, member] : state.members) {
    if (pid != state.pid && member.session && start_time_of(pid) == member.start_time) also.push_back(pid);
    member.snapshots = 0;
  }
  for (const auto& snapshot : state.snapshots) state.files.drop(snapshot->directories);
  state.snapshots.clear();
  if (std::ranges::none_of(state.members, [](const auto& member) { return member.second.session.has_value(); }))
    return {};
  auto stay = Stay::freeze(state.pid, also, state.members);
  if (!stay) {
    if (stay.error().kind == ErrorKind::not_found || stay.error().kind == ErrorKind::task_died) return {};
    return std::unexpected(std::move(stay).error());
  }
  auto left = (*stay)->leave_all();
  stay->reset();
  state.members.clear();
  state.agreement.reset();
  return left;
}

}  // namespace relive::rollback
