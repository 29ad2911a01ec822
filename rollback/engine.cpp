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
#include "capture/memory.h"
#include "capture/process.h"
#include "diff/memory.h"
#include "diff/pages.h"
#include "parasite/session.h"
#include "rollback/image_out.h"
#include "rollback/living.h"
#include "rollback/snapshot.h"
#include "rollback/symbols.h"
#include "rollback/way_back.h"
#include "task/frozen_task.h"
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

std::uint64_t frozen_us(const task::FrozenTask& task) { return (now_ns() - task.frozen_since_ns()) / 1000; }

}  // namespace

struct Engine::State {
  model::Pid pid;
  std::uint64_t start_time = 0;
  UniqueFd pidfd;
  std::optional<parasite::Session> session;
  std::optional<tracking::PageStore> store;
  std::unique_ptr<tracking::Tracker> tracker;
  tracking::PageMap current;  // what is in place, but for what the tracker calls changed
  std::vector<std::unique_ptr<Snapshot>> snapshots;
  std::map<std::uint64_t, std::vector<tracking::PageRun>> leases;  // pages that somebody else reads
  std::uint64_t last_lease = 0;

  [[nodiscard]] Snapshot* find(std::string_view name) const {
    const auto at = std::ranges::find_if(snapshots, [&](const auto& snapshot) { return snapshot->info.name == name; });
    return at == snapshots.end() ? nullptr : at->get();
  }

  // `current` becomes `map`; the store counts users of slots.
  void set_current(const tracking::PageMap& map) {
    if (map == current) return;  // counting costs 1 ns a page
    store->retain(map.runs());
    store->release(current.runs());
    current = map;
  }

  // What is mapped, as far as relive knows since it last let the task go.
  KnownMemory last_memory;

  // A frozen task and its maps text.
  struct Frozen {
    task::FrozenTask task;
    std::string maps_text;
  };
  Result<Frozen> freeze() {
    auto task = RELIVE_TRY(task::FrozenTask::freeze(pid));
    if (task.start_time() != start_time)
      return fail(ErrorKind::not_found,
                  fmt::format("process {} is another one than at the snapshot: the id was reused", pid.value));
    std::string maps = RELIVE_TRY(task::read_proc(pid, "maps"));
    if (session && !session->present_in(maps))
      return fail(ErrorKind::refused,
                  fmt::format("task {} executes another program than at the snapshot (execve since)", pid.value),
                  "its snapshots are of no use now: `relive drop --all`");
    return Frozen{std::move(task), std::move(maps)};
  }

  Result<Snapshot*> require(std::string_view name) const {
    Snapshot* snapshot = find(name);
    if (snapshot != nullptr) return snapshot;
    std::vector<std::string> names;
    for (const auto& known : snapshots) names.push_back(known->info.name);
    return fail(ErrorKind::not_found, fmt::format("task {} has no snapshot '{}'", pid.value, name),
                names.empty() ? "it has none" : "it has: " + join(names));
  }

  Result<void> take_contents(parasite::Visit& visit, Snapshot& snapshot, SnapshotReport& report);
  Result<void> cure(parasite::Visit& visit);
  Result<void> way_back(const Snapshot& wanted, const RollbackOptions& options, RollbackReport& report);
};

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::open(model::Pid pid) {
  auto state = std::make_unique<State>();
  state->pid = pid;
  state->pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid.value, 0)));
  if (!state->pidfd) return fail(ErrorKind::not_found, fmt::format("no process {}", pid.value));
  const std::string stat = RELIVE_TRY(task::read_proc(pid, "stat"));
  const std::string_view start = RELIVE_TRY(task::stat_field(stat, 22));
  std::from_chars(start.data(), start.data() + start.size(), state->start_time);
  return std::unique_ptr<Engine>(new Engine(std::move(state)));
}

model::Pid Engine::pid() const { return state_->pid; }
int Engine::pidfd() const { return state_->pidfd.get(); }

std::vector<SnapshotInfo> Engine::list() const {
  std::vector<SnapshotInfo> infos;
  for (const auto& snapshot : state_->snapshots) infos.push_back(snapshot->info);
  return infos;
}

const model::Task* Engine::find(std::string_view name) const {
  const Snapshot* snapshot = state_->find(name);
  return snapshot == nullptr ? nullptr : &snapshot->task;
}

Result<SnapshotParts> Engine::parts(std::string_view name) const {
  return SnapshotParts{RELIVE_TRY(state_->require(name)), &*state_->store};
}

std::uint64_t Engine::lease(std::string_view name) {
  State& state = *state_;
  const Snapshot* snapshot = state.find(name);
  if (snapshot == nullptr) return 0;
  const auto runs = snapshot->pages.runs();
  state.store->retain(runs);
  state.leases[++state.last_lease] = {runs.begin(), runs.end()};
  return state.last_lease;
}

void Engine::end_lease(std::uint64_t lease) {
  State& state = *state_;
  const auto at = state.leases.find(lease);
  if (at == state.leases.end()) return;
  state.store->release(at->second);
  state.leases.erase(at);
}

// The contents of memory: all that is populated the first time, later only what may have changed since.
Result<void> Engine::State::take_contents(parasite::Visit& visit, Snapshot& snapshot, SnapshotReport& report) {
  const model::Memory& memory = snapshot.task.memory;
  // The first time all that is populated, later what may have changed and is populated.
  const bool first = snapshots.empty();
  tracking::Ranges changed;
  tracking::Ranges to_save;
  if (first) {
    to_save = changed = RELIVE_TRY(tracking::populated(visit, memory));
  } else {
    changed = RELIVE_TRY(tracker->changed(visit, memory, current, *store));
    to_save = RELIVE_TRY(tracking::populated(visit, memory, changed));
  }
  RELIVE_TRY(fault_point("snapshot: save pages"));
  const std::vector<tracking::PageRun> runs = RELIVE_TRY(store->save(visit, to_save, tracking::zero_backed(memory)));
  for (const tracking::PageRun& run : runs) report.pages_copied += run.pages;

  // Mappings that are gone, and what changed, lose their old versions; what was saved gets its new one.
  tracking::Ranges mapped;
  for (const model::Mapping& mapping : memory.mappings) mapped.push_back(mapping.range);
  constexpr AddressRange kEverything{0, std::uint64_t{1} << 63};
  snapshot.pages = current;
  snapshot.pages.replace(tracking::subtract({kEverything}, tracking::subtract(mapped, changed)), runs);

  store->retain(snapshot.pages.runs());
  set_current(snapshot.pages);
  return tracker->arm(visit, memory, changed);
}

Result<SnapshotReport> Engine::snapshot(const SnapshotOptions& options) {
  State& state = *state_;
  if (options.name.empty()) return fail(ErrorKind::usage, "a snapshot needs a name");
  if (state.find(options.name) != nullptr && !options.replace)
    return fail(ErrorKind::usage, fmt::format("task {} has a snapshot '{}' already", state.pid.value, options.name),
                "give another name, or --replace");
  SnapshotReport report;
  Stopwatch stopwatch;
  auto [task, maps_text] = RELIVE_TRY(state.freeze());
  auto snapshot = std::make_unique<Snapshot>();
  {
    const bool fresh = !state.session.has_value();
    RELIVE_TRY(fault_point("snapshot: infect"));
    if (fresh) state.session.emplace(RELIVE_TRY(parasite::Session::infect(task)));
    auto outcome = [&]() -> Result<void> {
      auto visit = RELIVE_TRY(parasite::Visit::begin(task, *state.session));
      snapshot->task = RELIVE_TRY(read_task(visit, nullptr, nullptr, nullptr, {}, capture::Depth::full, stopwatch));
      RELIVE_TRY(refuse_children(snapshot->task));
      std::vector<std::string> unhandled = capture::unhandled(snapshot->task.descriptors);
      for (const diff::Refusal& refusal : diff::unhandled_memory(snapshot->task.memory))
        unhandled.push_back(fmt::format("{}: {}", refusal.object, refusal.reason));
      if (!unhandled.empty()) return fail(ErrorKind::refused, join(unhandled), "nothing was changed");
      RELIVE_TRY(fault_point("snapshot: hold"));
      RELIVE_TRY(capture::hold_descriptors(visit, snapshot->task.descriptors, snapshot->holds));
      RELIVE_TRY(capture::hold_directories(visit, snapshot->holds));
      RELIVE_TRY(capture::hold_mapped_files(visit, snapshot->task.memory, snapshot->holds));
      if (!state.store) state.store.emplace(RELIVE_TRY(tracking::PageStore::create(visit)));
      const bool first = state.tracker == nullptr;
      if (first) {
        RELIVE_TRY(fault_point("snapshot: make the tracker"));
        state.tracker =
            RELIVE_TRY(tracking::Tracker::create(options.tracker.value_or(tracking::best_tracker()), visit));
      }
      RELIVE_TRY(state.take_contents(visit, *snapshot, report));
      state.last_memory = {.memory = snapshot->task.memory, .maps_text = RELIVE_TRY(capture::read_maps(visit))};
      return {};
    }();
    if (!outcome) {
      if (state.snapshots.empty()) {
        if (auto visit = parasite::Visit::begin(task, *state.session)) [[maybe_unused]]
          const auto cured = state.cure(*visit);
        [[maybe_unused]] const auto left = state.session->leave(task);
        state.session.reset();
      }
      return std::unexpected(std::move(outcome).error());
    }
  }
  task.resume();
  report.frozen_us = frozen_us(task);

  SnapshotInfo& info = snapshot->info;
  info.name = options.name;
  info.pid = state.pid;
  info.created_ns = realtime_ns();
  info.threads = snapshot->task.threads.size();
  info.mappings = snapshot->task.memory.mappings.size();
  info.pages = snapshot->pages.pages();
  info.descriptors = snapshot->task.descriptors.descriptors.size();
  info.tracker = tracking::tracker_name(state.tracker->kind());
  info.command = snapshot->task.threads.front().name;
  report.info = info;
  report.faults_passed = faults_passed();
  if (Snapshot* old = state.find(options.name); old != nullptr) {
    state.store->release(old->pages.runs());
    std::erase_if(state.snapshots, [&](const auto& known) { return known.get() == old; });
  }
  state.snapshots.push_back(std::move(snapshot));
  return report;
}

Result<void> Engine::State::way_back(const Snapshot& wanted, const RollbackOptions& options, RollbackReport& report) {
  Stopwatch stopwatch;
  auto [task, maps_text] = RELIVE_TRY(freeze());
  stopwatch.lap("freeze");
  auto outcome = [&]() -> Result<void> {
    auto visit = RELIVE_TRY(parasite::Visit::begin(task, *session));
    stopwatch.lap("visit");
    const model::Task living = RELIVE_TRY(
        read_task(visit, &wanted.task, &wanted.holds, &last_memory, maps_text, capture::Depth::outside, stopwatch));
    const tracking::Ranges changed = RELIVE_TRY(tracker->changed(visit, living.memory, current, *store));
    stopwatch.lap("scan");
    const Plan plan = make_plan(wanted, living, changed, current);
    stopwatch.lap("plan");
    report.threads = plan.threads.changed;
    report.pages = plan.pages.pages();
    report.mappings = plan.memory.operations.size();
    report.descriptors = plan.descriptors.operations.size();
    report.refusals = plan.refusals();
    report.notes.insert(report.notes.end(), plan.process.notes.begin(), plan.process.notes.end());
    if (options.dry_run) report.plan = plan.texts();
    if (options.dry_run || !report.refusals.empty()) return {};

    auto carried = carry_out(visit, plan, wanted, living, *store, report.notes, stopwatch);
    if (visit.committed() && !visit.broken()) {
      // Re-armed while every thread still stands: what the copying dirtied is clean by definition.
      const tracking::Ranges touched = tracking::unite(changed, plan.memory.made);
      tracking::Ranges copied;
      for (const auto& copy : plan.pages.copies) copied.push_back({copy.to, copy.to + copy.pages * kPageSize});
      const auto armed =
          tracker->arm(visit, wanted.task.memory, tracking::unite(tracking::unite(touched, copied), plan.pages.drops));
      set_current(wanted.pages);
      // The task is at the snapshot all the same; from now on every page is compared.
      if (!armed) tracker = RELIVE_TRY(tracking::Tracker::create(tracking::TrackerKind::compare, visit));
      if (!plan.memory.operations.empty() || maps_text != last_memory.maps_text)
        if (auto text = capture::read_maps(visit))
          last_memory = {.memory = wanted.task.memory, .maps_text = *std::move(text)};
      stopwatch.lap("arm");
    }
    if (visit.committed()) {
      const auto departed = visit.depart();
      report.frozen_us = frozen_us(task);
      stopwatch.lap("depart");
      if (carried && !departed) carried = departed;
      report.fate = visit.broken() ? apply::Fate::stopped : apply::Fate::done;
    }
    return carried;
  }();
  task.resume();
  if (report.frozen_us == 0) report.frozen_us = frozen_us(task);
  report.stages = stopwatch.take();
  return outcome;
}

Result<RollbackReport> Engine::rollback(const RollbackOptions& options) {
  State& state = *state_;
  const Snapshot& wanted = *RELIVE_TRY(state.require(options.name));
  RollbackReport report;
  report.tracker = tracking::tracker_name(state.tracker->kind());
  auto outcome = state.way_back(wanted, options, report);
  report.faults_passed = faults_passed();
  if (outcome) return report;
  const ErrorKind kind = outcome.error().kind;
  if (report.fate == apply::Fate::untouched && (kind == ErrorKind::not_found || kind == ErrorKind::task_died))
    return std::unexpected(std::move(outcome).error());
  report.error = std::move(outcome).error();
  if (report.fate == apply::Fate::stopped && options.on_failure == OnFailure::kill) {
    ::kill(state.pid.value, SIGKILL);
    report.fate = apply::Fate::killed;
  }
  return report;
}

Result<DiffReport> Engine::diff(std::string_view name) {
  State& state = *state_;
  const Snapshot& wanted = *RELIVE_TRY(state.require(name));
  DiffReport report;
  Stopwatch stopwatch;
  auto [task, maps_text] = RELIVE_TRY(state.freeze());
  model::Task living;
  Plan plan;
  std::vector<std::uint64_t> words;
  {
    auto visit = RELIVE_TRY(parasite::Visit::begin(task, *state.session));
    living = RELIVE_TRY(
        read_task(visit, &wanted.task, &wanted.holds, &state.last_memory, maps_text, capture::Depth::full, stopwatch));
    const tracking::Ranges changed =
        RELIVE_TRY(state.tracker->changed(visit, living.memory, state.current, *state.store));
    plan = make_plan(wanted, living, changed, state.current);
    words = changed_words(visit, plan.pages, *state.store, living.memory);
  }
  task.resume();
  report.frozen_us = frozen_us(task);
  report.differences = plan.differences();
  auto pages = diff::describe_pages(plan.pages, wanted.task.memory);
  name_pages(pages, wanted.task, words);
  report.differences.insert(report.differences.end(), pages.begin(), pages.end());
  report.refusals = plan.refusals();
  return report;
}

// Takes everything of relive's out of the task but the parasite itself, which Session::leave unmaps last.
Result<void> Engine::State::cure(parasite::Visit& visit) {
  tracker.reset();
  if (store) {
    RELIVE_TRY(store->leave(visit));
    store.reset();
    leases.clear();  // who reads has the store's memory all the same
  }
  current = {};
  return {};
}

Result<void> Engine::drop(std::string_view name) {
  State& state = *state_;
  Snapshot* snapshot = RELIVE_TRY(state.require(name));
  if (state.snapshots.size() == 1) return drop_all();
  state.store->release(snapshot->pages.runs());
  std::erase_if(state.snapshots, [&](const auto& known) { return known.get() == snapshot; });
  return {};
}

Result<void> Engine::drop_all() {
  State& state = *state_;
  state.snapshots.clear();
  if (!state.session) return {};
  auto task = task::FrozenTask::freeze(state.pid);
  if (!task) {
    if (task.error().kind == ErrorKind::not_found || task.error().kind == ErrorKind::task_died) return {};
    return std::unexpected(std::move(task).error());
  }
  if (state.session->present_in(RELIVE_TRY(task::read_proc(state.pid, "maps")))) {
    auto visit = RELIVE_TRY(parasite::Visit::begin(*task, *state.session));
    RELIVE_TRY(state.cure(visit));
  }
  RELIVE_TRY(state.session->leave(*task));
  state.session.reset();
  return {};
}

}  // namespace relive::rollback
