#include "rollback/way_back.h"

#include <fmt/format.h>

#include "apply/descriptors.h"
#include "apply/memory.h"
#include "apply/process.h"
#include "apply/threads.h"

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

// What the spare addresses and numbers of this visit must leave free: all that the snapshot wants.
void keep_clear(parasite::Visit& visit, const Snapshot& wanted) {
  std::vector<AddressRange> ranges;
  for (const model::Mapping& mapping : wanted.task.memory.mappings) ranges.push_back(mapping.range);
  visit.keep_clear(ranges, apply::numbers_of(wanted.descriptors));
}

}  // namespace

std::vector<diff::Refusal> Plan::refusals() const {
  std::vector<diff::Refusal> all;
  append(all, threads.refusals);
  append(all, memory.refusals);
  append(all, descriptors.refusals);
  append(all, process.refusals);
  return all;
}

std::vector<diff::Difference> Plan::differences() const {
  std::vector<diff::Difference> all;
  append(all, threads.differences);
  append(all, memory.differences);
  append(all, descriptors.differences);
  append(all, process.differences);
  return all;
}

std::vector<std::string> Plan::texts() const {
  std::vector<std::string> all;
  for (const model::Tid tid : threads.missing) all.push_back(fmt::format("make thread {}", tid.value));
  for (const auto& operation : memory.operations) all.push_back(diff::text(operation));
  append(all, diff::texts(descriptors));
  for (const auto& operation : process.operations) all.push_back(diff::text(operation));
  if (pages.pages() != 0)
    all.push_back(
        fmt::format("put back {} pages in {} pieces", pages.pages(), pages.copies.size() + pages.drops.size()));
  for (const model::Tid tid : threads.surplus) all.push_back(fmt::format("end thread {}", tid.value));
  all.emplace_back("set the registers of all threads");
  return all;
}

Plan make_plan(const Snapshot& wanted, const model::Task& living, const model::DescriptorTable& living_descriptors,
               const tracking::Ranges& changed, const tracking::PageMap& current) {
  Plan plan;
  plan.threads = diff::plan_threads(wanted.task.threads, living.threads);
  plan.memory = diff::plan_memory(wanted.task.memory, living.memory);
  plan.descriptors = diff::plan_descriptors(wanted.descriptors, living_descriptors);
  const std::vector<model::Tid> tids = ids_of(living.threads);
  plan.process = diff::plan_process(wanted.task.process, living.process, tids);
  plan.pages = tracking::plan_pages(wanted.pages, current, changed, plan.memory.kept, plan.memory.made);
  return plan;
}

Result<void> carry_out(parasite::Visit& visit, const Plan& plan, const Snapshot& wanted, const model::Task& living,
                       const model::DescriptorTable& living_descriptors, const tracking::PageStore& store,
                       std::vector<std::string>& notes, Stopwatch& stopwatch) {
  keep_clear(visit, wanted);
  parasite::Program commit;
  parasite::Program cleanup;
  apply::Workshop workshop{.visit = visit,
                           .holds = wanted.holds,
                           .files = wanted.files,
                           .commit = commit,
                           .cleanup = cleanup,
                           .notes = notes};
  apply::Workshop* const tables[] = {&workshop};

  // 1. prepare: all that can fail, beside the living state
  RELIVE_TRY(apply::raise_limits(workshop, plan.process));
  RELIVE_TRY(apply::prepare_threads(workshop, plan.threads, wanted.task.threads, living.threads));
  RELIVE_TRY(apply::prepare_descriptors(tables, plan.descriptors, wanted.descriptors, living_descriptors));
  const auto rseq = RELIVE_TRY(apply::RseqKeeper::save(workshop, wanted.task.threads, living.threads, plan.pages));
  RELIVE_TRY(apply::prepare_memory(workshop, plan.memory, plan.pages, store));
  rseq.restore(workshop);
  RELIVE_TRY(apply::prepare_process(workshop, plan.process, wanted.task.process));
  RELIVE_TRY(apply::settle_locks(tables, plan.descriptors));
  auto goals = RELIVE_TRY(
      apply::thread_goals(visit, wanted.task.threads, living.threads, apply::takes_driver_signals(plan.process)));
  for (std::size_t i = 0; i < cleanup.size(); ++i) {
    commit.add(cleanup.what(i), cleanup.operations()[i].kind, {}, parasite::Program::OnError::go_on);
    commit.operations().back() = cleanup.operations()[i];
  }
  stopwatch.lap("prepare");

  // 2. commit: one program, which the task could finish alone
  RELIVE_TRY(visit.commit(commit, goals));
  stopwatch.lap("commit");
  return {};
}

}  // namespace relive::rollback
