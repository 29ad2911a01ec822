// The engine: the way back, to a snapshot or to an image.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/fault.h"
#include "capture/forest.h"
#include "capture/memory.h"
#include "rollback/engine_state.h"
#include "rollback/image_files.h"
#include "rollback/image_pages.h"
#include "rollback/rest.h"
#include "rollback/shared_memory.h"

namespace relive::rollback {

namespace {

model::Forker ourselves() { return {.pid = {::getpid()}, .group = {::getpgrp()}, .session = {::getsid(0)}}; }

}  // namespace

Result<model::Surroundings> Engine::State::surroundings(Stay& stay, const Snapshot& wanted,
                                                        const Living& living) const {
  const bool whole = std::ranges::all_of(wanted.forest.tasks, [&](const model::TreeTask& task) {
    const auto now = std::ranges::find(living.forest.tasks, task.pid, &model::TreeTask::pid);
    return now != living.forest.tasks.end() && now->state == task.state;
  });
  model::Surroundings out;
  if (!whole) out = RELIVE_TRY(capture::read_surroundings(living.forest));
  if (nobody_lives) out.relive = ourselves();
  for (const auto& [task, present] : stay.present())
    if (present.exec_since && wanted.index_of(task)) out.recreate[task] = "executes another program since";
  return out;
}

// Behind a commit, while every thread stands before its goal: what was copied is clean by definition.
Result<void> Engine::State::settle(Stay& stay, const Snapshot& wanted, const Living& living, const Plan& plan) {
  for (std::size_t index = 0; index < wanted.tree.tasks.size(); ++index) {
    if (!plan.tasks[index]) continue;  // at rest
    const model::Task& task = wanted.tree.tasks[index];
    const TaskPart& part = wanted.parts[index];
    const TaskPlan& done = *plan.tasks[index];
    Member& member = members.at(task.pid);
    parasite::Visit& visit = *stay.visit(task.pid);
    const model::Memory own = own_part(task.memory, part.not_its_own);
    const bool blank = stay.blanks().contains(diff::task_actor(task.pid));
    tracking::Ranges touched = tracking::unite(living.changed[index], done.memory.made);
    touched = tracking::unite(touched, done.pages.touched());
    if (blank && !tracker) {
      member.tracker.reset();
    } else if (blank) {
      if (auto made = tracking::Tracker::create(*tracker, visit)) member.tracker = *std::move(made);
      touched.clear();  // the first call arms all
    }
    if (!member.tracker) continue;  // an image was applied, and no snapshot is kept
    const auto armed = member.tracker->arm(visit, own, touched);
    member.set_current(part.pages);
    // The task is at the snapshot all the same; from now on every page is compared.
    if (!armed) member.tracker = RELIVE_TRY(tracking::Tracker::create(tracking::TrackerKind::compare, visit));
    const bool remapped = blank || !done.memory.operations.empty() ||
                          stay.present().at(task.pid).maps_text != member.last_memory.maps_text;
    if (remapped)
      if (auto text = capture::read_maps(visit))
        member.last_memory = {.memory = task.memory, .maps_text = *std::move(text)};
    if (part.can_rest) note_rest(member, *stay.task(task.pid), wanted.number);
  }
  return {};
}

Result<void> Engine::State::supply(Stay& stay, Arrival& arrival, Living& living, Plan& plan, RollbackReport& report,
                                   Stopwatch& stopwatch) {
  if (plan.tree.created.empty()) report.refusals = RELIVE_TRY(find_files(stay, arrival, living, plan));
  stopwatch.lap("find files");
  if (!report.refusals.empty()) return {};
  RELIVE_TRY(take_in_pages(stay, arrival, living, plan, members, OfTasks::living));
  plan_pages(stay, arrival.snapshot, living, plan);
  stopwatch.lap("compare");
  return {};
}

Result<void> Engine::State::supply_forked(Stay& stay, Arrival& arrival, Living& living, Plan& plan,
                                          RollbackReport& report) {
  report.refusals = RELIVE_TRY(find_files(stay, arrival, living, plan));
  if (!report.refusals.empty()) return fail(ErrorKind::refused, "a file of the image cannot be had here");
  RELIVE_TRY(take_in_pages(stay, arrival, living, plan, members, OfTasks::forked));
  plan_pages(stay, arrival.snapshot, living, plan);
  return {};
}

Result<void> Engine::State::way_back(Snapshot& wanted, Arrival* arrival, const RollbackOptions& options,
                                     RollbackReport& report) {
  Stopwatch stopwatch;
  const bool with_files = !wanted.directories.empty();
  auto stay = nobody_lives ? Stay::of_nobody() : RELIVE_TRY(freeze(&wanted, !options.dry_run));
  stopwatch.lap("freeze");
  Passage passage;
  auto outcome = [&]() -> Result<void> {
    RELIVE_TRY(stay->visit_all(agreement, [&](parasite::Visit& visit) { keep_clear(visit, wanted); }, with_files));
    stopwatch.lap("visit");
    Living living = RELIVE_TRY(look(*stay, wanted, shared, capture::Depth::outside, stopwatch));
    if (arrival != nullptr) complete(*arrival, living);
    Plan plan = make_plan(*stay, wanted, living, RELIVE_TRY(surroundings(*stay, wanted, living)));
    while (RELIVE_TRY(wake(*stay, wanted, living, plan, agreement, capture::Depth::outside, stopwatch)))
      plan_again(*stay, wanted, living, plan);
    stopwatch.lap("plan");
    report.refusals = plan.refusals();
    if (arrival != nullptr && report.refusals.empty())
      RELIVE_TRY(supply(*stay, *arrival, living, plan, report, stopwatch));
    if (options.dry_run) {
      report.plan = plan.texts();
      report.dot = diff::dot(plan.tree);
    }
    FilesPlan files_plan;
    if (with_files) {
      files_plan = RELIVE_TRY(look_at_files(wanted.directories, memories_of(living.tasks)));
      for (const diff::Refusal& refusal : files_plan.refusals) report.refusals.push_back(refusal);
      if (options.dry_run) report.plan.insert(report.plan.end(), files_plan.texts.begin(), files_plan.texts.end());
      stopwatch.lap("look at files");
    }
    const bool goes = !options.dry_run && report.refusals.empty();
    passage.shares_of_others = files_plan.empty() ? 0 : 1;
    if (goes) RELIVE_TRY(prepare_files(wanted.directories, files_plan));
    const Arrivals arrivals{
        .complete = [&](const Living& now) { complete(*arrival, now); },
        .supply = [&](Living& now, Plan& planned) { return supply_forked(*stay, *arrival, now, planned, report); }};
    auto carried = goes ? carry_out(*stay, wanted, living, plan, members, agreement, passage, report.notes, stopwatch,
                                    arrival == nullptr ? nullptr : &arrivals)
                        : Result<void>();
    report.at_rest = static_cast<std::uint64_t>(std::ranges::count(living.at_rest, true));
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
      for (const auto& [one, present] : stay->present())  // those that were killed are blank tasks now, and have to end
        if (present.task->frozen()) ::kill(one.value, SIGSTOP);
      return carried;
    }
    if (!passage.broken) {
      if (auto settled = settle(*stay, wanted, living, plan); !settled) carried = settled;
      if (arrival == nullptr)
        shared.begin(*stay, wanted.tree.tasks, members);
      else
        shared.end();
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
    if (!passage.broken) stay->let_rest();
    for (const model::Task& task : wanted.tree.tasks) {
      if (passage.broken || !stay->at_rest(task.pid) || !has_timers(task.process)) continue;
      if (auto put = put_timers_back(members.at(task.pid), *stay->task(task.pid), task.process); !put) {
        carried = std::move(put);
        passage.broken = true;
      }
    }
    stopwatch.lap("timers at rest");
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
  if (arrival != nullptr) give_up_pages(wanted, members);
  if (report.frozen_us == 0) report.frozen_us = (now_ns() - since) / 1000;
  report.stages = stopwatch.take();
  return outcome;
}

Result<RollbackReport> Engine::State::outcome_of(Result<void> outcome, const Snapshot& wanted,
                                                 const RollbackOptions& options, RollbackReport report) {
  report.tasks = wanted.tree.tasks.size();
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

Result<RollbackReport> Engine::rollback(const RollbackOptions& options) {
  if (!options.image.empty()) return apply(options);
  State& state = *state_;
  Snapshot& wanted = *RELIVE_TRY(state.require(options.name));
  RollbackReport report;
  report.tracker = tracking::tracker_name(state.members.at(state.pid).tracker->kind());
  auto outcome = state.way_back(wanted, nullptr, options, report);
  return State::outcome_of(std::move(outcome), wanted, options, std::move(report));
}

Result<RollbackReport> Engine::State::apply(const RollbackOptions& options) {
  RollbackReport report;
  report.tracker = tracking::tracker_name(tracking::TrackerKind::compare);
  image::Findings findings;
  const auto arrival =
      RELIVE_TRY(read_arrival(options.image, nobody_lives ? std::nullopt : std::optional(pid), findings));
  for (const image::Finding& finding : findings.all())
    report.refusals.push_back(
        {.object = finding.entry ? fmt::format("{}, entry {}", finding.file, *finding.entry) : finding.file,
         .reason = finding.text,
         .hint = {}});
  if (findings.count() != 0) {
    report.error = Error{
        findings.any_damage() ? ErrorKind::refused : ErrorKind::unsupported,
        fmt::format("the image {} {}", options.image, findings.any_damage() ? "is damaged" : "cannot be applied here"),
        0,
        "relive check names everything that is wrong with it",
        {}};
    report.faults_passed = faults_passed();
    return report;
  }
  pid = arrival->snapshot.tree.root;
  if (nobody_lives) bring_home(*arrival, ourselves());
  report.notes = arrival->notes;
  auto outcome = way_back(arrival->snapshot, arrival.get(), options, report);
  if (nobody_lives && report.fate == apply::Fate::done) start_time = start_time_of(pid);
  nobody_lives = false;
  return outcome_of(std::move(outcome), arrival->snapshot, options, std::move(report));
}

Result<RollbackReport> Engine::apply(const RollbackOptions& options) {
  auto report = state_->apply(options);
  // Where nothing is kept, nothing of relive's stays.
  if (report && state_->snapshots.empty() && report->fate != apply::Fate::stopped)
    if (const auto left = drop_all(); !left)
      report->notes.push_back("relive's own memory is left in the task: " + left.error().text());
  return report;
}

Result<Engine::Restored> Engine::restore(const RollbackOptions& options) {
  auto state = std::make_unique<State>();
  state->nobody_lives = true;
  Engine engine(std::move(state));
  auto report = RELIVE_TRY(engine.apply(options));
  return Restored{engine.pid(), std::move(report)};
}

}  // namespace relive::rollback
