// Random programs make a forest (wanted), go on (living), and the plan between the two is carried out in the simulator:
// every step must succeed, and the result be the goal in every field. RELIVE_TREE_SEED and RELIVE_TREE_PAIRS repeat a
// run.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <map>
#include <string>

#include "diff/tree.h"
#include "tests/unit/random_programs.h"
#include "tests/unit/tree_runner.h"

namespace relive::testing {
namespace {

constexpr pid_t kShell = 50;
constexpr pid_t kRelive = 60;
constexpr pid_t kStranger = 70;
constexpr pid_t kRoot = 100;

std::uint64_t number(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

std::string show(const model::Forest& forest) {
  std::string text;
  for (const auto& task : forest.tasks) {
    text +=
        fmt::format("  {} parent {} group {} session {} signal {}{}{}", task.pid.value, task.parent.value,
                    task.group.value, task.session.value, task.exit_signal, task.child_subreaper ? " subreaper" : "",
                    task.state == model::TaskState::zombie ? fmt::format(" zombie {}", task.status) : "");
    if (task.suspended_by.value != 0) text += fmt::format(" in vfork of {}", task.suspended_by.value);
    const auto& shared = task.sharing;
    if (!(shared == model::Sharing{})) {
      text += fmt::format(" shares {} {} {} {}", shared.memory, shared.files, shared.file_system, shared.handlers);
    }
    text += '\n';
  }
  return text;
}

struct Pair {
  model::Forest wanted;
  model::Forest living;
  KernelSimulator kernel;  // in the living state
  model::Surroundings surroundings;
};

struct Pairing {
  std::size_t most = 40;
  int steps = 120;
  bool forward = false;  // from the earlier state to the later one
};

// The tree's root is a child of a shell, or of relive ("relive run").
Pair random_pair(std::uint64_t seed, const Pairing& how) {
  RandomProgram::Random random(seed);
  const auto below = [&](int end) { return static_cast<int>(random() % static_cast<unsigned>(end)); };
  KernelSimulator kernel;
  kernel.outside(kShell, 1, true);
  kernel.outside(kRelive, 1, false);
  kernel.outside(kStranger, 1, true);
  const bool run = below(2) == 0;
  SimulatedClone clone{.set_tid = kRoot};
  kernel.clone(run ? kRelive : kShell, clone);
  kernel.put_into_tree(kRoot);
  kernel.set_last_pid(kRoot);
  kernel.set_pid_max(below(2) == 0 ? 180 : 32768);
  if (below(3) != 0) kernel.setsid(kRoot);

  ProgramTaste taste{.most = static_cast<std::size_t>(2 + below(static_cast<int>(how.most) - 1))};
  taste.shares = below(3) == 0;
  taste.execs = below(2) == 0;
  taste.root_is_calm = below(10) != 0;
  int result = 0;
  const auto go_on = [&](int steps) {
    RandomProgram program(kernel, random, kRoot, taste);
    for (int i = 0; i < steps; ++i) program.call(result);
  };
  go_on(1 + below(how.steps));
  Pair pair{.wanted = kernel.forest(), .living = {}, .kernel = kernel, .surroundings = {}};
  std::map<pid_t, int> serials;
  for (const auto& [pid, task] : kernel.tasks()) serials[pid] = task.serial;
  go_on(below(how.steps));
  if (below(20) == 0 && !kernel.number_in_use(kRoot + 1)) {
    kernel.clone(kStranger, {.set_tid = kRoot + 1});
  }
  pair.living = kernel.forest();
  std::map<pid_t, int> now;
  for (const auto& [pid, task] : kernel.tasks()) now[pid] = task.serial;
  auto& recreate = pair.surroundings.recreate;
  for (const auto& task : pair.living.tasks) {
    const auto then = serials.find(task.pid.value);
    if (then == serials.end()) continue;
    if (then->second != now[task.pid.value]) {
      recreate[task.pid] = "another task with that pid";
    } else if (task.pid.value != kRoot && below(25) == 0) {
      recreate[task.pid] = "no_new_privs set";
    }
  }
  if (how.forward) {
    std::swap(pair.wanted, pair.living);
  } else {
    pair.kernel = kernel;
  }
  for (const auto& [pid, task] : pair.kernel.tasks()) {
    if (task.in_tree) continue;
    for (const pid_t value : {pid, task.group, task.session}) pair.surroundings.taken.push_back({value});
    pair.surroundings.groups.push_back({.group = {task.group}, .session = {task.session}});
  }
  if (run || below(2) == 0) pair.surroundings.relive = model::Forker{{kRelive}, {kRelive}, {kRelive}};
  return pair;
}

// Only parents outside may differ from what was asked for.
bool is_what_was_asked(const model::Forest& wanted, const model::Forest& goal) {
  model::Forest likened = goal;
  if (wanted.tasks.size() != goal.tasks.size()) return false;
  for (std::size_t i = 0; i < likened.tasks.size(); ++i) {
    const pid_t parent = likened.tasks[i].parent.value;
    if (parent == kShell || parent == kRelive || parent == 1) likened.tasks[i].parent = wanted.tasks[i].parent;
  }
  return likened == wanted;
}

std::string carry_out(const Pair& pair, const diff::TreePlan& plan) {
  KernelSimulator kernel = pair.kernel;
  TreeRunner runner(kernel, kRelive, plan.numbers);
  if (auto failed = runner.run(plan.steps); !failed.empty()) return failed;
  if (!(kernel.forest() == plan.goal)) return "the result is not the goal:\n" + show(kernel.forest());
  if (!is_what_was_asked(pair.wanted, plan.goal)) return "the goal is not what was asked for";
  return {};
}

std::string take_back(const Pair& pair, const diff::TreePlan& plan, std::size_t done) {
  KernelSimulator kernel = pair.kernel;
  TreeRunner runner(kernel, kRelive, plan.numbers);
  if (auto failed = runner.run({plan.steps.data(), done}); !failed.empty()) return failed;
  const auto undo = diff::undo_tree(plan, pair.living, pair.surroundings, done);
  if (auto failed = runner.run(undo); !failed.empty()) return fmt::format("undo of {}: {}", done, failed);
  if (kernel.forest() == pair.living) return {};
  return fmt::format("undo of {} leads to:\n{}", done, show(kernel.forest()));
}

std::string report(const Pair& pair, const diff::TreePlan& plan, std::uint64_t seed, const std::string& what) {
  std::string text =
      fmt::format("seed {}: {}\nwanted:\n{}living:\n{}", seed, what, show(pair.wanted), show(pair.living));
  for (const auto& [pid, why] : pair.surroundings.recreate) text += fmt::format("re-create {}: {}\n", pid.value, why);
  for (const auto& line : diff::lines(plan)) text += line + "\n";
  return text;
}

// The reason with its numbers taken out, to be counted.
std::string kind_of(const diff::Refusal& refusal) {
  std::string kind;
  for (const char c : refusal.object.substr(0, refusal.object.find(' ')) + ": " + refusal.reason) {
    if (c < '0' || c > '9')
      kind += c;
    else if (kind.empty() || kind.back() != '#')
      kind += '#';
  }
  return kind.substr(0, std::min(kind.find('('), kind.find("others:")));
}

class Statistics {
 public:
  void count(const diff::TreePlan& plan) {
    ++pairs_;
    if (!plan.refusals.empty()) {
      ++refused_;
      ++kinds_[kind_of(plan.refusals.front())];
      return;
    }
    steps_ += plan.steps.size();
    undoable_ += plan.undoable;
  }
  void print(const char* name, std::uint64_t seed) const {
    std::cout << fmt::format(
        "{}: {} pairs from seed {}, {} refused ({:.2f} %), {:.1f} steps a plan, {:.1f} of them undoable\n", name,
        pairs_, seed, refused_, 100.0 * static_cast<double>(refused_) / static_cast<double>(pairs_),
        static_cast<double>(steps_) / static_cast<double>(pairs_ - refused_),
        static_cast<double>(undoable_) / static_cast<double>(pairs_ - refused_));
    for (const auto& [kind, count] : kinds_) std::cout << fmt::format("  {:>6}  {}\n", count, kind);
  }

 private:
  std::size_t pairs_ = 0;
  std::size_t refused_ = 0;
  std::size_t steps_ = 0;
  std::size_t undoable_ = 0;
  std::map<std::string, std::size_t> kinds_;
};

// The smallest failing pair of some thousands tells more than the first.
void expect_all(const char* name, std::uint64_t pairs, const Pairing& how, bool all_undone) {
  const std::uint64_t seed = number("RELIVE_TREE_SEED", 20260101);
  pairs = number("RELIVE_TREE_PAIRS", pairs);
  Statistics statistics;
  std::string worst;
  std::size_t least = SIZE_MAX;
  int failures = 0;
  for (std::uint64_t i = 0; i < pairs && failures < 200; ++i) {
    const Pair pair = random_pair(seed + i, how);
    const diff::TreePlan plan = diff::plan_tree(pair.wanted, pair.living, pair.surroundings);
    statistics.count(plan);
    if (!plan.refusals.empty()) {
      if (const char* shown = std::getenv("RELIVE_TREE_SHOW");
          shown != nullptr && plan.refusals.front().reason.find(shown) != std::string::npos &&
          pair.wanted.tasks.size() + pair.living.tasks.size() <= number("RELIVE_TREE_SIZE", 8)) {
        std::cout << report(pair, plan, seed + i, plan.refusals.front().object + " " + plan.refusals.front().reason);
      }
      continue;
    }
    std::string failed = carry_out(pair, plan);
    const std::size_t first = all_undone ? 0 : (plan.undoable == 0 ? 0 : (seed + i) % plan.undoable);
    const std::size_t last = all_undone ? plan.undoable : first;
    for (std::size_t done = first; done <= last && failed.empty(); ++done) failed = take_back(pair, plan, done);
    if (failed.empty()) continue;
    ++failures;
    const std::size_t size = pair.wanted.tasks.size() + pair.living.tasks.size();
    if (size >= least) continue;
    least = size;
    worst = report(pair, plan, seed + i, failed);
  }
  statistics.print(name, seed);
  EXPECT_EQ(failures, 0) << worst;
}

TEST(TreePropertyTest, ThePlanLeadsBack) { expect_all("back", 100'000, {}, false); }
TEST(TreePropertyTest, ThePlanLeadsForward) { expect_all("forward", 20'000, {.forward = true}, false); }
TEST(TreePropertyTest, EveryUndoablePrefixIsUndone) { expect_all("undone", 5'000, {.most = 12, .steps = 60}, true); }

}  // namespace
}  // namespace relive::testing
