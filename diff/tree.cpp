#include "diff/tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "diff/tree_check.h"
#include "diff/tree_write.h"

namespace relive::diff {

using model::Pid;
using model::TreeTask;

namespace {

class Planner {
 public:
  Planner(const model::Forest& wanted, const model::Forest& living, const model::Surroundings& surroundings,
          bool surplus_forks)
      : goal_(wanted),
        living_(living),
        surroundings_(surroundings),
        blamed_(surroundings.recreate),
        surplus_forks_(surplus_forks) {}

  TreePlan plan() && {
    for (auto& refusal : check_forest(goal_, "wanted")) plan_.refusals.push_back(std::move(refusal));
    for (auto& refusal : check_forest(living_, "living")) plan_.refusals.push_back(std::move(refusal));
    while (plan_.refusals.empty() && !attempt()) {
    }
    plan_.goal = goal_;
    if (!plan_.refusals.empty()) plan_.steps.clear();
    return std::move(plan_);
  }

 private:
  // True: planned or refused. False: more living tasks must be re-created than was thought (blamed_): again.
  bool attempt() {
    const TreeInput first(goal_, living_, surroundings_);
    const Fates fates = decide_fates(first, blamed_, surplus_forks_);
    settle_outside(first, fates);
    const TreeInput input(goal_, living_, surroundings_);
    const Sessions sessions = find_sessions(input, fates);
    if (again(sessions.blamed)) return false;
    Births births = find_births(input, fates, sessions);
    if (sessions.hopeless.empty() && again(births.blamed)) return false;
    const Groups groups = find_groups(input, fates, births.made);
    if (sessions.hopeless.empty() && births.hopeless.empty() && again(groups.blamed)) return false;
    for (const auto& [pid, lender] : groups.lenders) births.made.push_back(lender);

    tell(input, fates);
    refuse(input, fates, groups.numbers);
    hopeless(sessions.hopeless, fates);
    hopeless(births.hopeless, fates);
    hopeless(groups.hopeless, fates);
    if (!plan_.refusals.empty()) return true;
    order({.input = input, .fates = fates, .births = births.made, .groups = groups});
    return true;
  }

  bool again(const std::map<Pid, std::string>& more) {
    bool fresh = false;
    for (const auto& [pid, why] : more) fresh = blamed_.emplace(pid, why).second || fresh;
    return fresh;
  }

  void refuse_task(Pid pid, const std::string& reason, const std::string& hint = {}) {
    plan_.refusals.push_back({.object = fmt::format("task {}", pid.value), .reason = reason, .hint = hint});
  }

  void hopeless(const std::map<Pid, std::string>& tasks, const Fates& fates) {
    for (const auto& [pid, why] : tasks) {
      const auto& known = plan_.refusals;
      if (std::ranges::find(known, fmt::format("task {}", pid.value), &Refusal::object) != known.end()) continue;
      const auto lives = fates.ended.find(pid);
      refuse_task(pid, lives == fates.ended.end()
                           ? why
                           : fmt::format("it must be re-created ({}), and {}", lives->second, why));
    }
  }

  // Parents outside of the tree: what has changed there cannot be taken back, and need not.
  void settle_outside(const TreeInput& input, const Fates& fates) {
    std::vector<std::pair<TreeTask*, Pid>> changed;
    for (TreeTask& task : goal_.tasks) {
      if (input.wanted.has(task.parent)) continue;
      if (fates.kept.contains(task.pid)) {
        const Pid parent = input.living.find(task.pid)->parent;
        if (!input.living.has(parent) && parent != task.parent) changed.emplace_back(&task, parent);
      } else if (const auto parent = forker(input, fates, task)) {
        changed.emplace_back(&task, *parent);
      }
    }
    for (const auto& [task, parent] : changed) {
      plan_.notes.push_back(fmt::format("{}: its parent {} was outside of the tree; it is {} now", task->pid.value,
                                        task->parent.value, parent.value));
      task->parent = parent;
    }
  }

  // relive, for a task whose parent outside nothing living can fork a child for.
  [[nodiscard]] std::optional<Pid> forker(const TreeInput& input, const Fates& fates, const TreeTask& task) const {
    if (!surroundings_.relive || surroundings_.relive->pid == task.parent) return std::nullopt;
    if (task.parent == surroundings_.reaper) return std::nullopt;
    const bool sibling = std::ranges::any_of(input.living.children(task.parent), [&](Pid pid) {
      return fates.callers.contains(pid) && can_act(input, fates, pid);
    });
    if (sibling || input.living.has(task.pid)) return std::nullopt;
    return surroundings_.relive->pid;
  }

  [[nodiscard]] bool waits_for_anything(Pid outside) const {
    return outside == surroundings_.reaper || (surroundings_.relive && surroundings_.relive->pid == outside);
  }

  void refuse(const TreeInput& input, const Fates& fates, const std::set<Pid>& numbers) {
    for (const Pid number : numbers) {
      if (std::ranges::find(surroundings_.taken, number) == surroundings_.taken.end()) continue;
      refuse_task(number, "its number is taken by a task outside of the tree", "wait until that one has ended");
    }
    for (const auto& [pid, why] : fates.created) {
      const TreeTask& task = *input.wanted.find(pid);
      const bool inside = input.wanted.has(task.parent);
      const auto& relive = surroundings_.relive;
      if (is_zombie(task) && !inside && !(relive && relive->pid == task.parent)) {
        refuse_task(
            pid, fmt::format("it was dead, for {} outside of the tree to wait for, which is done", task.parent.value));
      }
      core_dump(task);
      const TreeTask* living = input.living.find(pid);
      if (living != nullptr && !input.living.has(living->parent) && !waits_for_anything(living->parent)) {
        refuse_task(pid,
                    fmt::format("it must be re-created ({}), and its parent {} outside of the tree would see its end",
                                why, living->parent.value),
                    "take a new snapshot, or start the program with relive run");
      }
    }
    for (const Pid pid : fates.kept) {
      const TreeTask& task = *input.wanted.find(pid);
      if (is_zombie(task) && !is_zombie(*input.living.find(pid))) core_dump(task);
    }
    ended(input, fates, numbers);
  }

  void core_dump(const TreeTask& task) {
    constexpr int kCoreFlag = 0x80;  // WCOREFLAG of wait(2)
    if (is_zombie(task) && (task.status & kCoreFlag) != 0 && (task.status & 0x7f) != 0) {
      refuse_task(task.pid, "it was dead with a core dump, which would be written again");
    }
  }

  // A task born since whose parent outside is no reaper: its end is seen, which a note tells, and its number is not
  // ours to wait for.
  void ended(const TreeInput& input, const Fates& fates, const std::set<Pid>& numbers) {
    for (const auto& [pid, why] : fates.ended) {
      const TreeTask& task = *input.living.find(pid);
      if (input.living.has(task.parent) || waits_for_anything(task.parent) || fates.created.contains(pid)) continue;
      for (const Pid number : {pid, task.group, task.session}) {
        if (!numbers.contains(number)) continue;
        refuse_task(number, fmt::format("its number is free only when {} outside of the tree has waited for {}",
                                        task.parent.value, pid.value));
      }
      plan_.notes.push_back(
          fmt::format("{}: its parent {} outside of the tree will see its end", pid.value, task.parent.value));
    }
  }

  void tell(const TreeInput& input, const Fates& fates) {
    const auto differs = [&](Sign sign, Pid pid, const std::string& text) {
      plan_.differences.push_back(
          {.family = Family::process, .sign = sign, .object = fmt::format("task {}", pid.value), .text = text});
    };
    for (const auto& [pid, why] : fates.ended) {
      plan_.ended.push_back(pid);
      if (fates.created.contains(pid)) continue;
      plan_.reasoning.push_back(fmt::format("{}: ended: {}", pid.value, why));
      differs(Sign::added, pid, why);
    }
    for (const auto& [pid, why] : fates.created) {
      const bool lives = fates.ended.contains(pid);
      plan_.reasoning.push_back(fmt::format("{}: {}: {}", pid.value, lives ? "re-created" : "created", why));
      differs(lives ? Sign::changed : Sign::removed, pid, why);
    }
    plan_.kept.assign(fates.kept.begin(), fates.kept.end());
    for (const Pid pid : fates.kept) compare(*input.wanted.find(pid), *input.living.find(pid), differs);
  }

  template <class Differs>
  static void compare(const TreeTask& wanted, const TreeTask& living, const Differs& differs) {
    const auto number = [&](const char* what, Pid then, Pid now) {
      if (then != now) differs(Sign::changed, wanted.pid, fmt::format("{} {} -> {}", what, then.value, now.value));
    };
    number("parent", wanted.parent, living.parent);
    number("group", wanted.group, living.group);
    number("session", wanted.session, living.session);
    if (is_zombie(wanted)) {
      if (!is_zombie(living)) differs(Sign::changed, wanted.pid, "dead -> alive");
    } else if (wanted.child_subreaper != living.child_subreaper) {
      differs(Sign::changed, wanted.pid,
              fmt::format("child subreaper {}", wanted.child_subreaper ? "on -> off" : "off -> on"));
    }
  }

  void order(const OrderInput& input) {
    Order order = find_order(input, false);
    if (!order.circle.empty()) order = find_order(input, true);
    if (!order.circle.empty()) {
      std::string names;
      for (const std::string& name : order.circle) names += (names.empty() ? "" : ", ") + name;
      plan_.refusals.push_back({.object = "tree", .reason = "each must come before the others: " + names, .hint = {}});
      return;
    }
    const Track track = write_steps(input, order.stages, living_, goal_);
    const std::string wrong = track.broken().empty() ? missed(track, goal_) : track.broken();
    if (!wrong.empty()) {
      plan_.refusals.push_back(
          {.object = "tree", .reason = "no order of system calls was found: " + wrong, .hint = {}});
      return;
    }
    plan_.steps = track.steps();
    const auto first = std::ranges::find(plan_.steps, false, &TreeStep::undoable);
    plan_.undoable = static_cast<std::size_t>(first - plan_.steps.begin());
    for (const Stage& stage : order.stages) plan_.stages.push_back(text(stage));
    plan_.before = std::move(order.before);
    results(input);
  }

  void results(const OrderInput& input) {
    const TreeInput& in = input.input;
    for (const TreeStep& step : plan_.steps) {
      if (const auto* fork = std::get_if<ForkBlank>(&step.call); fork != nullptr && !fork->temporary) {
        plan_.created.push_back(Pid{fork->child.number});
      }
      if (std::holds_alternative<StartSession>(step.call)) plan_.sessions_begun.push_back(Pid{step.actor.number});
    }
    for (const TreeTask& task : living_.tasks) {
      const bool ends = input.fates.ended.contains(task.pid) || in.wanted.find(task.pid)->state != task.state;
      if (leads_session(task) && !is_zombie(task) && ends) plan_.sessions_bereft.push_back(task.pid);
    }
    std::set<Pid> numbers = input.groups.numbers;
    for (const TreeTask& task : goal_.tasks) numbers.insert({task.pid, task.group, task.session});
    for (const TreeTask& task : living_.tasks) numbers.insert({task.pid, task.group, task.session});
    plan_.numbers.assign(numbers.begin(), numbers.end());
  }

  model::Forest goal_;
  const model::Forest& living_;
  const model::Surroundings& surroundings_;
  std::map<Pid, std::string> blamed_;
  bool surplus_forks_;
  TreePlan plan_;
};

}  // namespace

TreePlan plan_tree(const model::Forest& wanted, const model::Forest& living, const model::Surroundings& surroundings) {
  TreePlan plan = Planner(wanted, living, surroundings, false).plan();
  if (plan.refusals.empty()) return plan;
  // Tasks born since are called upon only where nothing else helps: they, too, must be alive for it.
  TreePlan other = Planner(wanted, living, surroundings, true).plan();
  return other.refusals.empty() ? other : plan;
}

std::vector<std::string> lines(const TreePlan& plan) {
  std::vector<std::string> found = plan.reasoning;
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const TreeStep& step = plan.steps[i];
    std::string line = fmt::format("{:>3}{} {}", i + 1, step.undoable ? ' ' : '!', text(step));
    if (!step.why.empty()) line += "  # " + step.why;
    found.push_back(std::move(line));
  }
  return found;
}

}  // namespace relive::diff
