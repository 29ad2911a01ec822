#include "rollback/engine.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/clock.h"
#include "diff/pages.h"
#include "rollback/engine_state.h"
#include "rollback/image_out.h"
#include "rollback/rest.h"
#include "rollback/symbols.h"
#include "task/procfs.h"
#include "task/stat_text.h"

namespace relive::rollback {

std::uint64_t start_time_of(model::Pid pid) {
  const auto stat = task::read_proc(pid, "stat");
  return stat ? task::start_time(*stat).value_or(0) : 0;
}

std::vector<const model::Memory*> memories_of(std::span<const model::Task> tasks) {
  std::vector<const model::Memory*> memories;
  for (const model::Task& task : tasks) memories.push_back(&task.memory);
  return memories;
}

std::vector<const model::Memory*> memories_of(std::span<const std::optional<model::Task>> tasks) {
  std::vector<const model::Memory*> memories;
  for (const auto& task : tasks)
    if (task) memories.push_back(&task->memory);
  return memories;
}

Snapshot* Engine::State::find(std::string_view name) const {
  const auto at = std::ranges::find_if(snapshots, [&](const auto& snapshot) { return snapshot->info.name == name; });
  return at == snapshots.end() ? nullptr : at->get();
}

Result<Snapshot*> Engine::State::require(std::string_view name) const {
  Snapshot* snapshot = find(name);
  if (snapshot != nullptr) return snapshot;
  std::string names;
  for (const auto& known : snapshots) names += (names.empty() ? "it has: " : "; ") + known->info.name;
  return fail(ErrorKind::not_found, fmt::format("task {} has no snapshot '{}'", pid.value, name),
              names.empty() ? "it has none" : names);
}

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

Result<std::unique_ptr<Stay>> Engine::State::freeze(const Snapshot* wanted, bool rest) {
  std::vector<model::Pid> also;
  if (wanted != nullptr)
    for (const model::Task& task : wanted->tree.tasks)
      if (task.pid != pid && members.contains(task.pid) && start_time_of(task.pid) == members.at(task.pid).start_time)
        also.push_back(task.pid);
  const auto rests = [&](Member& member, task::FrozenTask& task) {
    const auto index = wanted->index_of(task.pid());
    if (!index) return false;
    // With files no task may run on before they are back, and what sees to that is the agreement.
    if (!wanted->directories.empty() && !member.session->takes_part()) return false;
    const TaskPart& part = wanted->parts[*index];
    return part.can_rest && is_at_rest(member, task, wanted->number, wanted->tree.tasks[*index], part.pages);
  };
  auto stay = RELIVE_TRY(Stay::freeze(pid, also, members, rest ? Stay::Rests(rests) : Stay::Rests()));
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

void Engine::State::forget(Snapshot& snapshot) {
  for (std::size_t index = 0; index < snapshot.parts.size(); ++index) {
    Member& member = members.at(snapshot.tree.tasks[index].pid);
    member.store->release(snapshot.parts[index].pages.runs());
    --member.snapshots;
  }
  files.drop(snapshot.directories);
  std::erase_if(snapshots, [&](const auto& known) { return known.get() == &snapshot; });
}

Result<DiffReport> Engine::diff(std::string_view name) {
  State& state = *state_;
  const Snapshot& wanted = *RELIVE_TRY(state.require(name));
  DiffReport report;
  Stopwatch stopwatch;
  auto stay = RELIVE_TRY(state.freeze(&wanted));
  RELIVE_TRY(stay->visit_all(state.agreement, [&](parasite::Visit& visit) { keep_clear(visit, wanted); }));
  const Living living = RELIVE_TRY(look(*stay, wanted, state.shared, capture::Depth::full, stopwatch));
  const Plan plan = make_plan(*stay, wanted, living, RELIVE_TRY(state.surroundings(*stay, wanted, living)));
  const FilesPlan files_plan = RELIVE_TRY(look_at_files(wanted.directories, memories_of(living.tasks)));
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
  state.shared.end();
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
