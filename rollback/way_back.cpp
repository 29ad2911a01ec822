#include "rollback/way_back.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "apply/descriptors.h"
#include "apply/memory.h"
#include "apply/process.h"
#include "apply/threads.h"
#include "base/fault.h"
#include "capture/descriptors.h"
#include "rollback/kin.h"
#include "rollback/living.h"
#include "rollback/shared_memory.h"

namespace relive::rollback {

namespace {

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

std::vector<model::Tid> ids_of(const std::vector<model::Thread>& threads) {
  std::vector<model::Tid> ids;
  for (const model::Thread& thread : threads) ids.push_back(thread.tid);
  return ids;
}

// Who has the tables: those of the snapshot's tasks by their numbers, behind them those of tasks born since. Of several
// tasks with one table, one that is visited: a table is at rest if all of them are.
std::vector<capture::Table> tables_of(Stay& stay, const Snapshot& wanted) {
  std::vector<capture::Table> tables(wanted.tables());
  for (const model::Task& task : wanted.tree.tasks) {
    capture::Table& table = tables[task.table];
    if (table.visit != nullptr) continue;
    if (parasite::Visit* const visit = stay.visit(task.pid))
      table = capture::Table(visit);
    else if (stay.at_rest(task.pid))
      table = capture::Table(*stay.task(task.pid));
  }
  for (const model::Pid pid : stay.surplus(wanted.tree)) tables.emplace_back(stay.visit(pid));
  return tables;
}

// A blank task is a copy of another one: every page is compared with what is wanted.
const tracking::PageMap& pages_in_place(Stay& stay, const Snapshot& wanted, std::size_t index) {
  const model::Pid pid = wanted.tree.tasks[index].pid;
  return stay.blanks().contains(diff::task_actor(pid)) ? wanted.parts[index].pages : stay.member(pid)->current;
}

// What a task is.
Result<void> read_one(Stay& stay, const Snapshot& wanted, std::size_t index, capture::Depth depth, Living& living,
                      Stopwatch& stopwatch) {
  const model::Pid pid = wanted.tree.tasks[index].pid;
  living.at_rest[index] = stay.at_rest(pid);
  if (living.at_rest[index]) living.tasks[index] = wanted.tree.tasks[index];
  parasite::Visit* const visit = stay.visit(pid);
  if (visit == nullptr) return {};
  const bool blank = stay.blanks().contains(diff::task_actor(pid));
  Member& member = *stay.member(pid);
  const bool known = !blank && !member.last_memory.maps_text.empty();
  const std::string maps = blank ? std::string() : stay.present().at(pid).maps_text;
  living.tasks[index] = RELIVE_TRY(
      read_task(*visit, known ? &member.last_memory : nullptr, maps, blank ? capture::Depth::full : depth, stopwatch));
  return {};
}

// Which of its pages may have changed. REQUIRES: read_one().
Result<void> scan_one(Stay& stay, const Snapshot& wanted, std::size_t index, Living& living, Stopwatch& stopwatch) {
  const model::Pid pid = wanted.tree.tasks[index].pid;
  parasite::Visit* const visit = stay.visit(pid);
  const Member* const member = stay.member(pid);
  if (visit == nullptr || !member->tracker)
    return {};  // without one nothing is known of its pages: an image is applied
  tracking::Ranges beside = wanted.parts[index].not_its_own;
  const auto sound = living.sound.find(pid);
  if (sound != living.sound.end() && !stay.blanks().contains(diff::task_actor(pid)))
    beside = tracking::unite(beside, sound->second);
  const tracking::PageMap& in_place = pages_in_place(stay, wanted, index);
  living.changed[index] =
      tracking::subtract(RELIVE_TRY(member->tracker->changed(*visit, own_part(living.tasks[index]->memory, beside),
                                                             in_place, *member->store)),
                         beside);
  stopwatch.lap("scan");
  return {};
}

Result<void> look_at(Stay& stay, const Snapshot& wanted, std::size_t index, capture::Depth depth, Living& living,
                     Stopwatch& stopwatch) {
  RELIVE_TRY(read_one(stay, wanted, index, depth, living, stopwatch));
  return scan_one(stay, wanted, index, living, stopwatch);
}

Result<void> look_at_descriptors(Stay& stay, const Snapshot& wanted, Living& living, Stopwatch& stopwatch) {
  const auto tables = tables_of(stay, wanted);
  living.descriptors = RELIVE_TRY(
      with_context(capture::read_descriptors(tables, &wanted.tree.descriptors, &wanted.files), "reading descriptors"));
  stopwatch.lap("capture descriptors");
  return {};
}

tracking::PagePlan pages_of(Stay& stay, const Snapshot& wanted, const Living& living, std::size_t index,
                            const diff::MemoryPlan& memory) {
  const TaskPart& part = wanted.parts[index];
  return tracking::plan_pages(part.pages, pages_in_place(stay, wanted, index), living.changed[index],
                              tracking::subtract(memory.kept, part.not_its_own),
                              tracking::subtract(memory.made, part.not_its_own));
}

TaskPlan plan_task(Stay& stay, const Snapshot& wanted, const Living& living, std::size_t index,
                   const diff::TreePlan& tree) {
  const model::Task& task = wanted.tree.tasks[index];
  const model::Task& now = *living.tasks[index];
  TaskPlan plan;
  const auto blank = stay.blanks().find(diff::task_actor(task.pid));
  plan.threads = diff::plan_threads(task.threads, now.threads, blank != stay.blanks().end());
  plan.changed_threads = plan.threads.changed;
  plan.memory = diff::plan_memory(task.memory, now.memory);
  // With the layout it gets the auxiliary vector that the program was started with.
  if (blank != stay.blanks().end() && blank->second.executed && task.memory.layout == now.memory.layout)
    plan.memory.operations.emplace_back(diff::SetLayout{now.memory.layout, task.memory.layout});
  plan.process = diff::plan_process(task.process, now.process, ids_of(now.threads), gets_signals(stay, tree, task.pid));
  plan.pages = pages_of(stay, wanted, living, index, plan.memory);
  return plan;
}

}  // namespace

void keep_clear(parasite::Visit& visit, const Snapshot& wanted) {
  const model::Pid pid = visit.task().pid();
  const auto index = wanted.index_of(pid);
  if (!index) return;
  const auto table = static_cast<int>(wanted.tree.tasks[*index].table);
  visit.keep_clear(wanted.mapped_by(pid), apply::numbers_of(wanted.tree.descriptors, table));
}

Result<Living> look(Stay& stay, const Snapshot& wanted, SharedWatch& shared, capture::Depth depth,
                    Stopwatch& stopwatch) {
  Living living;
  living.tasks.resize(wanted.tree.tasks.size());
  living.changed.resize(wanted.tree.tasks.size());
  living.at_rest.resize(wanted.tree.tasks.size());
  for (std::size_t index = 0; index < living.tasks.size(); ++index)
    RELIVE_TRY(read_one(stay, wanted, index, depth, living, stopwatch));
  living.sound = shared.sound(stay, living.tasks);
  for (std::size_t index = 0; index < living.tasks.size(); ++index)
    RELIVE_TRY(scan_one(stay, wanted, index, living, stopwatch));
  RELIVE_TRY(look_at_descriptors(stay, wanted, living, stopwatch));
  living.forest = stay.forest();
  for (model::TreeTask& task : living.forest.tasks) {
    const auto known = std::ranges::find_if(
        living.tasks, [&](const std::optional<model::Task>& one) { return one && one->pid == task.pid; });
    if (known != living.tasks.end()) task.child_subreaper = (*known)->process.child_subreaper;
  }
  stopwatch.lap("capture tree");
  return living;
}

Plan make_plan(Stay& stay, const Snapshot& wanted, const Living& living, const model::Surroundings& surroundings) {
  Plan plan;
  plan.tree = diff::plan_tree(wanted.forest, living.forest, surroundings);
  plan.blanks = plan_blanks(wanted, living, plan.tree);
  for (const model::Task& task : wanted.tree.tasks) plan.pids.push_back(task.pid);
  plan.tasks.resize(living.tasks.size());
  plan_again(stay, wanted, living, plan);
  return plan;
}

void plan_again(Stay& stay, const Snapshot& wanted, const Living& living, Plan& plan) {
  for (std::size_t index = 0; index < living.tasks.size(); ++index)
    if (living.tasks[index] && !living.at_rest[index] && !plan.tasks[index])
      plan.tasks[index] = plan_task(stay, wanted, living, index, plan.tree);
  plan.descriptors = diff::plan_descriptors(wanted.tree.descriptors, living.descriptors, wanted.owners_of_tables());
  if (plan.tree.created.empty() || !plan.tree.refusals.empty()) return;
  // Some files are lost while tasks are made again: whether they can be had then has to be known now.
  auto then = diff::plan_descriptors(
      wanted.tree.descriptors, foresee_descriptors(stay, wanted, plan.tree, plan.blanks.executing, living.descriptors),
      wanted.owners_of_tables());
  for (diff::Refusal& refusal : then.refusals)
    if (std::ranges::find(plan.descriptors.refusals, refusal) == plan.descriptors.refusals.end())
      plan.descriptors.refusals.push_back(std::move(refusal));
}

namespace {

// The tasks that a plan needs: to make and end others, and to put open files right.
std::set<model::Pid> needed(Stay& stay, const Plan& plan, const Snapshot& wanted) {
  std::set<model::Pid> out;
  for (const diff::TreeStep& step : plan.tree.steps)
    if (step.actor.kind == diff::Actor::Kind::task) out.insert(model::Pid{step.actor.number});
  for (const model::Task& task : wanted.tree.tasks)
    if (!plan.tree.steps.empty() && (task.process.child_subreaper || gets_signals(stay, plan.tree, task.pid)))
      out.insert(task.pid);
  std::set<int> tables;
  for (const diff::DescriptorOperation& operation : plan.descriptors.operations) {
    tables.insert(diff::table_of(operation, plan.descriptors));
    if (const auto* const import = std::get_if<diff::Import>(&operation))
      tables.insert(import->from ? import->from->table : plan.descriptors.homes[import->file]);
  }
  for (const diff::SetLocks& locks : plan.descriptors.last) tables.insert(locks.fd.table);
  for (const model::Task& task : wanted.tree.tasks)
    if (tables.contains(static_cast<int>(task.table))) out.insert(task.pid);
  return out;
}

}  // namespace

Result<bool> wake(Stay& stay, const Snapshot& wanted, Living& living, const Plan& plan,
                  std::optional<parasite::TreeAgreement>& agreement, capture::Depth depth, Stopwatch& stopwatch) {
  bool any = false;
  for (const model::Pid pid : needed(stay, plan, wanted)) {
    if (!stay.at_rest(pid)) continue;
    any = true;
    RELIVE_TRY(stay.wake(stay.present().at(pid), agreement));
    RELIVE_TRY(look_at(stay, wanted, *wanted.index_of(pid), depth, living, stopwatch));
  }
  if (any) RELIVE_TRY(look_at_descriptors(stay, wanted, living, stopwatch));
  return any;
}

void plan_pages(Stay& stay, const Snapshot& wanted, const Living& living, Plan& plan) {
  for (std::size_t index = 0; index < plan.tasks.size(); ++index)
    if (plan.tasks[index]) plan.tasks[index]->pages = pages_of(stay, wanted, living, index, plan.tasks[index]->memory);
}

std::vector<diff::Refusal> Plan::refusals() const {
  std::vector<diff::Refusal> all = tree.refusals;
  append(all, not_carried_out(tree));
  append(all, blanks.refusals);
  for (std::size_t index = 0; index < tasks.size(); ++index) {
    if (!tasks[index]) continue;
    std::vector<diff::Refusal> some = tasks[index]->threads.refusals;
    append(some, tasks[index]->memory.refusals);
    append(some, tasks[index]->process.refusals);
    for (diff::Refusal& refusal : some) {
      if (!alone()) refusal.object = fmt::format("task {}: {}", pids[index].value, refusal.object);
      all.push_back(std::move(refusal));
    }
  }
  append(all, descriptors.refusals);
  return all;
}

std::vector<diff::Difference> Plan::differences() const {
  std::vector<diff::Difference> all = tree.differences;
  for (std::size_t index = 0; index < tasks.size(); ++index) {
    if (!tasks[index]) continue;
    std::vector<diff::Difference> some = tasks[index]->threads.differences;
    append(some, tasks[index]->memory.differences);
    append(some, tasks[index]->process.differences);
    for (diff::Difference& difference : some) {
      if (!alone()) difference.object = fmt::format("task {}: {}", pids[index].value, difference.object);
      all.push_back(std::move(difference));
    }
  }
  append(all, descriptors.differences);
  return all;
}

std::vector<std::string> Plan::notes() const {
  std::vector<std::string> all = tree.notes;
  for (std::size_t index = 0; index < tasks.size(); ++index) {
    if (!tasks[index]) continue;
    for (const std::string& note : tasks[index]->process.notes)
      all.push_back(alone() ? note : fmt::format("task {}: {}", pids[index].value, note));
  }
  return all;
}

std::vector<std::string> Plan::texts() const {
  std::vector<std::string> all;
  if (!tree.steps.empty()) all = diff::lines(tree);
  append(all, diff::texts(descriptors));
  for (std::size_t index = 0; index < tasks.size(); ++index) {
    if (!tasks[index]) continue;
    const TaskPlan& task = *tasks[index];
    std::vector<std::string> some;
    for (const model::Tid tid : task.threads.missing) some.push_back(fmt::format("make thread {}", tid.value));
    for (const auto& operation : task.memory.operations) some.push_back(diff::text(operation));
    for (const auto& operation : task.process.operations) some.push_back(diff::text(operation));
    if (task.pages.pages() != 0)
      some.push_back(fmt::format("put back {} pages in {} pieces", task.pages.pages(),
                                 task.pages.copies.size() + task.pages.drops.size()));
    for (const model::Tid tid : task.threads.surplus) some.push_back(fmt::format("end thread {}", tid.value));
    some.emplace_back("set the registers of all threads");
    for (const std::string& text : some)
      all.push_back(alone() ? text : fmt::format("task {}: {}", pids[index].value, text));
  }
  return all;
}

namespace {

// What the executors of one task share.
struct Bench {
  parasite::Visit& visit;
  parasite::Program commit;
  parasite::Program cleanup;
  apply::Workshop workshop;
  std::vector<parasite::ThreadGoal> goals;
  Bench(parasite::Visit& of, const TaskPart& part, const Snapshot& wanted, std::vector<std::string>& notes)
      : visit(of),
        workshop{.visit = of,
                 .holds = part.holds,
                 .files = wanted.files,
                 .commit = commit,
                 .cleanup = cleanup,
                 .notes = notes} {}
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;
};

class Passing {
 public:
  Passing(Stay& stay, const Snapshot& wanted, const Living& living, const Plan& plan, std::vector<std::string>& notes)
      : stay_(stay), wanted_(wanted), living_(living), plan_(plan) {
    benches_.resize(wanted.tree.tasks.size());
    for (std::size_t index = 0; index < benches_.size(); ++index) {
      if (!plan.tasks[index]) continue;
      parasite::Visit& visit = *stay.visit(wanted.tree.tasks[index].pid);
      benches_[index] = std::make_unique<Bench>(visit, wanted.parts[index], wanted, notes);
    }
  }

  // All that can fail, beside the living state.
  Result<void> prepare() {
    RELIVE_TRY(each([&](std::size_t i, Bench& bench) -> Result<void> {
      RELIVE_TRY(end_children(stay_, plan_.tree, wanted_.tree.tasks[i].pid, bench.visit, bench.commit));
      return apply::raise_limits(bench.workshop, plan_.tasks[i]->process);
    }));
    RELIVE_TRY(each([&](std::size_t i, Bench& bench) {
      return apply::prepare_threads(bench.workshop, plan_.tasks[i]->threads, wanted_.tree.tasks[i].threads,
                                    living_.tasks[i]->threads);
    }));
    const auto tables = workshops();
    std::vector<parasite::Visit*> holders;
    for (const capture::Table& table : tables_of(stay_, wanted_)) holders.push_back(table.visit);
    RELIVE_TRY(
        apply::prepare_descriptors(tables, plan_.descriptors, wanted_.tree.descriptors, living_.descriptors, holders));
    RELIVE_TRY(each([&](std::size_t i, Bench& bench) -> Result<void> {
      const TaskPlan& plan = *plan_.tasks[i];
      const auto rseq = RELIVE_TRY(apply::RseqKeeper::save(bench.workshop, wanted_.tree.tasks[i].threads,
                                                           living_.tasks[i]->threads, plan.pages));
      RELIVE_TRY(apply::prepare_memory(bench.workshop, plan.memory, plan.pages, store(i)));
      rseq.restore(bench.workshop);
      return apply::prepare_process(bench.workshop, plan.process, wanted_.tree.tasks[i].process);
    }));
    RELIVE_TRY(apply::settle_locks(tables, plan_.descriptors));
    return each([&](std::size_t i, Bench& bench) -> Result<void> {
      bench.goals = RELIVE_TRY(apply::thread_goals(
          bench.visit, plan_.tasks[i]->threads, wanted_.tree.tasks[i].threads, living_.tasks[i]->threads,
          apply::takes_driver_signals(plan_.tasks[i]->process), wanted_.tree.tasks[i].process.dumpable));
      for (std::size_t at = 0; at < bench.cleanup.size(); ++at) {
        bench.commit.add(bench.cleanup.what(at), bench.cleanup.operations()[at].kind, {},
                         parasite::Program::OnError::go_on);
        bench.commit.operations().back() = bench.cleanup.operations()[at];
      }
      return {};
    });
  }

  // One program a task. They are decided on together.
  Result<void> commit(std::optional<parasite::TreeAgreement>& agreement, Passage& passage) {
    if (!agreement) {
      if (benches_.front() == nullptr) {  // it is at rest
        passage.committed = true;
        return {};
      }
      Bench& bench = *benches_.front();
      auto outcome = bench.visit.commit(bench.commit, bench.goals);
      passage.committed = bench.visit.committed();
      passage.broken = bench.visit.broken();
      return outcome;
    }
    std::uint32_t count = 0;
    for (const auto& bench : benches_) count += bench ? 1 : 0;
    // Where others have a share, too, tasks at rest wait for it like all.
    const bool holds = passage.shares_of_others != 0;
    agreement->open(count + (holds ? stay_.count_at_rest() : 0) + passage.shares_of_others);
    std::vector<Bench*> staged;
    auto ready = each([&](std::size_t, Bench& bench) -> Result<void> {
      RELIVE_TRY(bench.visit.stage(bench.commit, bench.goals));
      staged.push_back(&bench);
      return {};
    });
    Endings endings(stay_, plan_.tree);
    if (ready) ready = endings.stage();
    if (ready && holds) ready = stay_.hold_at_rest(wanted_.tree);
    if (ready) ready = fault_point("commit: point of no return");
    if (!ready) {
      endings.unstage();
      for (Bench* bench : staged) bench->visit.unstage();
      stay_.let_rest();
      return ready;
    }
    agreement->decide();
    passage.committed = true;
    [[maybe_unused]] const auto counted = fault_point("commit: decided for all");
    end_tasks(stay_, plan_.tree);
    endings.carry_out();
    [[maybe_unused]] const auto counted_again = fault_point("commit: tasks born since have ended");
    Result<void> outcome;
    for (Bench* bench : staged) {
      auto one = bench->visit.carry_out(bench->commit, bench->goals);
      if (one) continue;
      outcome = std::move(one);
      break;
    }
    if (!outcome) {
      passage.broken = true;
      agreement->broken();
      for (Bench* bench : staged) bench->visit.break_off();
    }
    return outcome;
  }

 private:
  template <class Act>
  Result<void> each(Act act) {
    for (std::size_t index = 0; index < benches_.size(); ++index) {
      if (!benches_[index]) continue;
      auto done = act(index, *benches_[index]);
      if (done) continue;
      if (plan_.alone()) return done;
      return with_context(std::move(done), fmt::format("task {}", wanted_.tree.tasks[index].pid.value));
    }
    return {};
  }
  [[nodiscard]] std::vector<apply::Workshop*> workshops() const {
    std::vector<apply::Workshop*> tables(wanted_.tables());
    for (std::size_t index = 0; index < benches_.size(); ++index) {
      apply::Workshop*& table = tables[wanted_.tree.tasks[index].table];
      if (table == nullptr && benches_[index]) table = &benches_[index]->workshop;
    }
    return tables;
  }
  [[nodiscard]] const tracking::PageStore& store(std::size_t index) const {
    return *stay_.member(wanted_.tree.tasks[index].pid)->store;
  }

  Stay& stay_;
  const Snapshot& wanted_;
  const Living& living_;
  const Plan& plan_;
  std::vector<std::unique_ptr<Bench>> benches_;  // as the snapshot's tasks
};

Result<void> refuse_all(const std::vector<diff::Refusal>& refusals) {
  if (refusals.empty()) return {};
  std::string what;
  for (const diff::Refusal& refusal : refusals)
    what += fmt::format("{}{}: {}", what.empty() ? "" : "; ", refusal.object, refusal.reason);
  return fail(ErrorKind::refused, what, refusals.front().hint);
}

}  // namespace

Result<void> carry_out(Stay& stay, const Snapshot& wanted, Living& living, Plan& plan, Members& members,
                       std::optional<parasite::TreeAgreement>& agreement, Passage& passage,
                       std::vector<std::string>& notes, Stopwatch& stopwatch, const Arrivals* arrivals) {
  if (!plan.tree.created.empty() || plan.tree.undoable != 0) {
    RELIVE_TRY(fork_tasks(stay, wanted, plan.tree, plan.blanks.executing, members, agreement, passage.irreversible));
    stopwatch.lap("fork");
    for (std::size_t index = 0; index < plan.pids.size(); ++index) {
      // One that was killed to be made again was looked at before: it is another task now.
      if (!stay.blanks().contains(diff::task_actor(plan.pids[index]))) continue;
      if (stay.visit(plan.pids[index]) == nullptr) continue;
      RELIVE_TRY(look_at(stay, wanted, index, capture::Depth::full, living, stopwatch));
      plan.tasks[index].reset();
    }
    if (arrivals != nullptr) arrivals->complete(living);
    RELIVE_TRY(look_at_descriptors(stay, wanted, living, stopwatch));
    do plan_again(stay, wanted, living, plan);
    while (RELIVE_TRY(wake(stay, wanted, living, plan, agreement, capture::Depth::full, stopwatch)));
    stopwatch.lap("plan");
    RELIVE_TRY(refuse_all(plan.refusals()));
    if (arrivals != nullptr) RELIVE_TRY(arrivals->supply(living, plan));
  }
  Passing passing(stay, wanted, living, plan, notes);
  RELIVE_TRY(passing.prepare());
  stopwatch.lap("prepare");
  auto outcome = passing.commit(agreement, passage);
  stopwatch.lap("commit");
  return outcome;
}

}  // namespace relive::rollback
