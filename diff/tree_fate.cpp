#include "diff/tree_fate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>

namespace relive::diff {

using model::Pid;
using model::TreeTask;

namespace {

struct SharedObject {
  pid_t model::Sharing::* object;
  std::string_view name;
};
constexpr std::array<SharedObject, 4> kSharedObjects{{{&model::Sharing::memory, "memory"},
                                                      {&model::Sharing::files, "descriptors"},
                                                      {&model::Sharing::file_system, "directories"},
                                                      {&model::Sharing::handlers, "signal actions"}}};

bool together(const TreeTask& one, const TreeTask& other, pid_t model::Sharing::* object) {
  return one.sharing.*object != 0 && one.sharing.*object == other.sharing.*object;
}

// Starts from keeping every task that lives and is wanted, and takes back what cannot be, until nothing changes.
class Decision {
 public:
  Decision(const TreeInput& input, const std::map<Pid, std::string>& blamed) : in_(input), blamed_(blamed) {}

  Fates run(const model::Forest& wanted, const model::Forest& living) && {
    for (const TreeTask& task : living.tasks) {
      if (in_.wanted.has(task.pid)) {
        fates_.kept.insert(task.pid);
      } else {
        fates_.ended.emplace(task.pid, is_zombie(task) ? "dead, and not waited for yet" : "born since");
      }
    }
    for (const TreeTask& task : wanted.tasks) {
      if (!in_.living.has(task.pid)) fates_.created.emplace(task.pid, "ended since");
    }
    while (pass()) {
    }
    for (const Pid pid : fates_.kept) {
      if (in_.wanted.find(pid)->session != in_.living.find(pid)->session) fates_.begin_session.insert(pid);
      if (const auto adopter = adopter_of(pid)) fates_.adoptions.emplace(pid, *adopter);
    }
    return std::move(fates_);
  }

 private:
  bool pass() {
    bool changed = false;
    for (const Pid pid : std::set(fates_.kept)) {
      if (!fates_.kept.contains(pid)) continue;
      const TreeTask& wanted = *in_.wanted.find(pid);
      const TreeTask& living = *in_.living.find(pid);
      auto why = caller(wanted);
      if (!why) why = state(wanted, living);
      if (!why) why = session(wanted, living);
      if (!why) why = parent(wanted, living);
      if (!why) why = number(wanted, living);
      if (!why) why = sharing(wanted, living);
      if (!why) {
        changed = suspension(wanted, living) || changed;
        continue;
      }
      drop(pid, *why);
      changed = true;
    }
    return changed;
  }

  void drop(Pid pid, const std::string& why) {
    fates_.kept.erase(pid);
    fates_.ended.insert_or_assign(pid, why);
    fates_.created.insert_or_assign(pid, why);
  }

  [[nodiscard]] bool kept(Pid pid) const { return fates_.kept.contains(pid); }
  // Kept, and alive in the end.
  [[nodiscard]] bool stays(Pid pid) const { return kept(pid) && !is_zombie(*in_.wanted.find(pid)); }
  [[nodiscard]] bool dies(Pid pid) const { return in_.living.has(pid) && !stays(pid); }

  [[nodiscard]] std::optional<std::string> caller(const TreeTask& wanted) const {
    const auto found = blamed_.find(wanted.pid);
    return found == blamed_.end() ? std::nullopt : std::optional(found->second);
  }

  [[nodiscard]] static std::optional<std::string> state(const TreeTask& wanted, const TreeTask& living) {
    if (is_zombie(living) && !is_zombie(wanted)) return "dead since";
    if (is_zombie(living) && living.status != wanted.status) return "ended with another status";
    if (is_zombie(living) && living.group != wanted.group) return "dead since, in another group";
    return std::nullopt;
  }

  // setsid(2) is the only way, and never leads back.
  [[nodiscard]] std::optional<std::string> session(const TreeTask& wanted, const TreeTask& living) const {
    if (wanted.session == living.session) return std::nullopt;
    const bool by_itself = leads_session(wanted) && !is_zombie(living) && in_.living.in_group(wanted.pid).empty() &&
                           living.suspended_by.value == 0;
    if (by_itself) return std::nullopt;
    return fmt::format("session {} -> {}, which a task cannot take back", wanted.session.value, living.session.value);
  }

  // Only the parent's death gives a task another parent: the nearest living subreaper above, else the reaper outside.
  [[nodiscard]] std::optional<std::string> parent(const TreeTask& wanted, const TreeTask& living) const {
    const bool inside = in_.living.has(living.parent);
    const bool same =
        wanted.parent == living.parent && (inside ? stays(living.parent) : !in_.wanted.has(wanted.parent));
    const bool both_outside = !inside && !in_.wanted.has(wanted.parent);
    if (same || both_outside) return exit_signal(wanted, living.exit_signal);
    if (!inside || !dies(living.parent)) {
      return fmt::format("parent {} -> {}", wanted.parent.value, living.parent.value);
    }
    if (!may_adopt(living.parent, wanted.parent)) {
      return wanted.parent == living.parent
                 ? fmt::format("its parent {} must be re-created", wanted.parent.value)
                 : fmt::format("parent {}, which cannot adopt it from {}", wanted.parent.value, living.parent.value);
    }
    if (is_zombie(wanted) && !in_.wanted.has(wanted.parent)) return "dead, for a parent outside to wait for";
    for (const Pid sibling : in_.living.children(living.parent)) {
      if (sibling == living.pid) break;
      if (kept(sibling) && in_.wanted.find(sibling)->parent != wanted.parent) {
        return fmt::format("parent {}, where {} gets another one as {} dies", wanted.parent.value, sibling.value,
                           living.parent.value);
      }
    }
    return exit_signal(wanted, SIGCHLD);  // reparent_leader() in kernel/exit.c
  }

  // May `adopter` get the children of `dying`? Flags of child subreapers are set as needed for it.
  [[nodiscard]] bool may_adopt(Pid dying, Pid adopter) const {
    if (is_zombie(*in_.living.find(dying))) return false;
    for (const Pid above : in_.living.ancestors(dying)) {
      const bool flag = in_.living.find(above)->child_subreaper;
      if (above == adopter) return stays(above) && (flag || !suspended(above));
      if (flag && suspended(above)) return false;
    }
    return adopter == in_.surroundings.reaper && !in_.wanted.has(adopter);
  }

  static std::optional<std::string> exit_signal(const TreeTask& wanted, int then) {
    if (wanted.exit_signal == then) return std::nullopt;
    return fmt::format("exit signal {} -> {}", wanted.exit_signal, then);
  }

  // A number is free for a fork only when nobody has it as pid, group or session (free_pid() in kernel/pid.c).
  [[nodiscard]] std::optional<std::string> number(const TreeTask& wanted, const TreeTask& living) const {
    if (fates_.created.contains(living.session) && wanted.session == living.session) {
      return fmt::format("in session {}, whose leader must be forked again", living.session.value);
    }
    if (fates_.created.contains(living.group) && (is_zombie(living) || suspended(living.pid))) {
      return fmt::format("in group {}, whose number must become free", living.group.value);
    }
    return std::nullopt;
  }

  [[nodiscard]] std::optional<std::string> sharing(const TreeTask& wanted, const TreeTask& living) const {
    if (is_zombie(wanted)) return std::nullopt;
    for (const Pid other : fates_.kept) {
      if (other >= wanted.pid) break;
      const TreeTask& other_wanted = *in_.wanted.find(other);
      if (is_zombie(other_wanted)) continue;
      for (const auto& [object, name] : kSharedObjects) {
        const bool then = together(wanted, other_wanted, object);
        if (then == together(living, *in_.living.find(other), object)) continue;
        return fmt::format("{} its {} with {}{}", then ? "shared" : "shares", name, other.value, then ? "" : " since");
      }
    }
    return std::nullopt;
  }

  // Is it, in what lives, waiting for a vfork child that goes on?
  [[nodiscard]] bool suspended(Pid pid) const {
    const Pid child = in_.living.find(pid)->suspended_by;
    return child.value != 0 && stays(child);
  }

  // A task in vfork(2) does nothing until its child execs or dies: where it has something to do, the child is forked
  // again. True: a child was dropped for it.
  bool suspension(const TreeTask& wanted, const TreeTask& living) {
    const auto again = [&](Pid child, const std::string& why) {
      if (!kept(child)) return false;
      drop(child, why);
      return true;
    };
    if (living.suspended_by != wanted.suspended_by) {
      const bool before = again(living.suspended_by, fmt::format("{} waits for it as after vfork", living.pid.value));
      return again(wanted.suspended_by, fmt::format("{} waited for it as after vfork", wanted.pid.value)) || before;
    }
    if (living.suspended_by.value == 0 || !suspended(living.pid)) return false;
    const auto& children = in_.living.children(living.pid);
    const auto& wanted_children = in_.wanted.children(living.pid);
    const bool idle = !is_zombie(wanted) && wanted.group == living.group &&
                      wanted.child_subreaper == living.child_subreaper &&
                      std::ranges::all_of(children, [&](Pid child) { return kept(child); }) &&
                      std::ranges::all_of(wanted_children, [&](Pid child) { return kept(child); });
    return !idle &&
           again(living.suspended_by, fmt::format("{} waits for it, and has something to do", living.pid.value));
  }

  [[nodiscard]] std::optional<Pid> adopter_of(Pid pid) const {
    const Pid parent = in_.living.find(pid)->parent;
    if (!in_.living.has(parent) || !dies(parent)) return std::nullopt;
    return in_.wanted.find(pid)->parent;
  }

  const TreeInput& in_;
  const std::map<Pid, std::string>& blamed_;
  Fates fates_;
};

}  // namespace

Fates decide_fates(const TreeInput& input, const std::map<Pid, std::string>& blamed, bool surplus_forks) {
  Fates fates = Decision(input, blamed).run(input.wanted.forest(), input.living.forest());
  fates.callers = fates.kept;
  for (const auto& [pid, why] : fates.ended) {
    const bool needed = input.wanted.has(pid) || !input.wanted.in_group(pid).empty();  // the number
    if (surplus_forks && !needed) fates.callers.insert(pid);
  }
  return fates;
}

bool can_act(const TreeInput& input, const Fates& fates, Pid pid) {
  const TreeTask* task = input.living.find(pid);
  if (task == nullptr || is_zombie(*task)) return false;
  const Pid child = task->suspended_by;
  return child.value == 0 || !fates.kept.contains(child) || is_zombie(*input.wanted.find(child));
}

}  // namespace relive::diff
