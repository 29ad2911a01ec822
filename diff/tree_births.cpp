#include "diff/tree_births.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <utility>

namespace relive::diff {

using model::Pid;
using model::TreeTask;

namespace {

constexpr std::array kShared{&model::Sharing::memory, &model::Sharing::files, &model::Sharing::file_system,
                             &model::Sharing::handlers};

std::optional<When> time_in(Pid wanted, Pid first, bool begins, Pid own) {
  if (wanted.value == 0) return When::any;
  if (first == wanted) return begins ? When::before : When::any;
  if (begins && own == wanted) return When::after;
  return std::nullopt;
}

std::optional<When> time_of(const Birth& birth, Pid session) {
  return time_in(session, birth.first_session, birth.begins_session, birth.pid);
}

std::optional<When> time_of_kept(const TreeInput& input, const Fates& fates, Pid pid, Pid session) {
  if (!can_act(input, fates, pid)) return std::nullopt;
  return time_in(session, input.living.find(pid)->session, fates.begin_session.contains(pid), pid);
}

class Search {
 public:
  Search(const TreeInput& input, const Fates& fates, const Sessions& sessions)
      : in_(input), fates_(fates), sessions_(sessions) {}

  Births run() && {
    collect();
    while (!open_.empty() && (step(&Search::by_parent) || step(&Search::by_sibling) || step(&Search::by_adoption))) {
    }
    for (const Birth& birth : open_) unmade(birth);
    return std::move(found_);
  }

 private:
  using Try = bool (Search::*)(Birth&);

  void collect() {
    for (const TreeTask& task : in_.wanted.forest().tasks) {
      if (!fates_.created.contains(task.pid)) continue;
      Birth birth{.pid = task.pid, .parent = task.parent, .exit_signal = task.exit_signal};
      birth.begins_session = leads_session(task);
      const auto carried = sessions_.carried.find(task.pid);
      if (!birth.begins_session) birth.first_session = task.session;
      if (carried != sessions_.carried.end()) birth.first_session = carried->second;
      const TreeTask* parent = in_.wanted.find(task.parent);
      birth.suspends = parent != nullptr && parent->suspended_by == task.pid;
      open_.push_back(birth);
    }
    for (const auto& [session, parent] : sessions_.lenders) {
      Birth birth{.pid = session, .temporary = true, .parent = parent};
      birth.begins_session = true;
      birth.exit_signal = lender_signal(session, parent);
      open_.push_back(birth);
    }
  }

  // Siblings that a lender forks get its exit signal. One that nobody outlives it for shall leave no trace.
  [[nodiscard]] int lender_signal(Pid session, Pid parent) const {
    int signal = 0;
    for (const Pid child : in_.wanted.children(parent)) {
      const TreeTask& task = *in_.wanted.find(child);
      if (!fates_.created.contains(child)) continue;
      const auto carried = sessions_.carried.find(child);
      const bool needs = leads_session(task) ? carried != sessions_.carried.end() && carried->second == session
                                             : task.session == session;
      if (!needs) continue;
      signal = task.exit_signal;
      if (signal != SIGCHLD) return signal;
    }
    return left_to_reaper(parent) ? 0 : signal;
  }

  [[nodiscard]] bool left_to_reaper(Pid parent) const {
    return !in_.wanted.has(parent) && parent == in_.surroundings.reaper && !by_relive(parent);
  }
  [[nodiscard]] bool by_relive(Pid parent) const {
    return in_.surroundings.relive && in_.surroundings.relive->pid == parent;
  }

  // One birth that this way works for, in the order of pids; false: for none.
  bool step(Try way) {
    bool any = false;
    for (std::size_t i = 0; i < open_.size();) {
      Birth birth = open_[i];
      if (parent_is_there(birth) && (this->*way)(birth)) {
        share(birth);
        found_.made.push_back(birth);
        open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(i));
        any = true;
        if (way != &Search::by_parent) return true;
      } else {
        ++i;
      }
    }
    return any;
  }

  [[nodiscard]] const Birth* made(Pid pid) const {
    const auto found = std::ranges::find(found_.made, pid, &Birth::pid);
    return found == found_.made.end() ? nullptr : &*found;
  }

  [[nodiscard]] bool parent_is_there(const Birth& birth) const {
    return !in_.wanted.has(birth.parent) || fates_.kept.contains(birth.parent) || made(birth.parent) != nullptr;
  }

  bool by_parent(Birth& birth) {
    if (birth.temporary && left_to_reaper(birth.parent)) return by_anyone(birth);
    std::optional<When> when;
    Actor caller = task_actor(birth.parent);
    if (in_.wanted.has(birth.parent)) {
      const Birth* parent = made(birth.parent);
      when = parent != nullptr ? time_of(*parent, birth.first_session)
                               : time_of_kept(in_, fates_, birth.parent, birth.first_session);
    } else if (by_relive(birth.parent)) {
      caller = relive_actor();
      when = time_in(birth.first_session, in_.surroundings.relive->session, false, {});
    }
    if (!when || !may_share(birth, caller)) return false;
    return take(birth, Route::parent, caller, *when);
  }

  // A lender that is left to the reaper may be anybody's child.
  bool by_anyone(Birth& birth) {
    for (const Pid pid : fates_.callers) {
      if (!can_act(in_, fates_, pid)) continue;
      birth.parent = pid;
      return take(birth, Route::parent, task_actor(pid), When::any);
    }
    if (!in_.surroundings.relive) return false;
    birth.parent = in_.surroundings.relive->pid;
    return take(birth, Route::parent, relive_actor(), When::any);
  }

  bool by_sibling(Birth& birth) {
    if (birth.suspends) return false;
    for (const Source& source : sources(in_, fates_, found_.made, birth.first_session)) {
      const Pid pid{source.who.number};
      const Birth* born = made(pid);
      const bool sibling = born != nullptr ? born->parent == birth.parent && born->route != Route::left_behind &&
                                                 born->exit_signal == birth.exit_signal
                                           : in_.living.find(pid)->parent == birth.parent &&
                                                 in_.living.find(pid)->exit_signal == birth.exit_signal;
      if (sibling && may_share(birth, source.who)) return take(birth, Route::sibling, source.who, source.when);
    }
    return false;
  }

  bool by_adoption(Birth& birth) {
    if (birth.suspends || birth.exit_signal != SIGCHLD) return false;
    const bool outside = !in_.wanted.has(birth.parent);
    if (outside && birth.parent != in_.surroundings.reaper) return false;
    if (!outside && fates_.kept.contains(birth.parent) && !can_act(in_, fates_, birth.parent) &&
        !in_.living.find(birth.parent)->child_subreaper) {
      return false;
    }
    for (const Source& source : sources(in_, fates_, found_.made, birth.first_session)) {
      const Pid pid{source.who.number};
      if (!outside && !below(pid, birth.parent)) continue;
      if (!may_share(birth, source.who)) continue;
      const Birth* born = made(pid);
      const bool lender = outside && born != nullptr && born->temporary && sessions_.lenders.contains(pid) &&
                          left_to_reaper(sessions_.lenders.at(pid));
      return take(birth, lender ? Route::left_behind : Route::adoption, source.who, source.when);
    }
    const auto& relive = in_.surroundings.relive;
    if (!outside || !relive || !may_share(birth, relive_actor())) return false;
    const auto when = time_in(birth.first_session, relive->session, false, {});
    return when && take(birth, Route::adoption, relive_actor(), *when);
  }

  static bool take(Birth& birth, Route route, Actor caller, When when) {
    birth.route = route;
    birth.caller = caller;
    birth.when = when;
    return true;
  }

  // Is it below `ancestor` when the blanks are forked?
  [[nodiscard]] bool below(Pid pid, Pid ancestor) const {
    std::set<Pid> seen;
    while (seen.insert(pid).second) {
      const Birth* born = made(pid);
      const TreeTask* living = in_.living.find(pid);
      if (born == nullptr && living == nullptr) return false;
      pid = born != nullptr ? born->parent : living->parent;
      if (pid == ancestor) return true;
    }
    return false;
  }

  [[nodiscard]] bool of_class(Pid pid, pid_t model::Sharing::* object, pid_t number) const {
    const TreeTask* task = in_.wanted.find(pid);
    return task != nullptr && task->sharing.*object == number && !is_zombie(*task);
  }

  // An object can only be shared at the fork, by a caller that has it. The first of those that share it brings its own.
  [[nodiscard]] bool may_share(const Birth& birth, Actor caller) const {
    if (birth.temporary) return true;
    const TreeTask& task = *in_.wanted.find(birth.pid);
    return std::ranges::all_of(kShared, [&](auto object) {
      const pid_t number = task.sharing.*object;
      if (number == 0) return true;
      if (caller.kind == Actor::Kind::task && of_class(Pid{caller.number}, object, number)) return true;
      const auto has = [&](Pid pid) { return of_class(pid, object, number); };
      return std::ranges::none_of(fates_.kept, has) && std::ranges::none_of(found_.made, has, &Birth::pid);
    });
  }

  void share(Birth& birth) const {
    if (birth.temporary || birth.caller.kind != Actor::Kind::task) return;
    const TreeTask& task = *in_.wanted.find(birth.pid);
    const auto shared = [&](auto object) {
      return task.sharing.*object != 0 && of_class(Pid{birth.caller.number}, object, task.sharing.*object);
    };
    birth.memory = shared(&model::Sharing::memory);
    birth.files = shared(&model::Sharing::files);
    birth.file_system = shared(&model::Sharing::file_system);
    birth.handlers = shared(&model::Sharing::handlers);
  }

  void unmade(const Birth& birth) {
    if (birth.temporary || !parent_is_there(birth)) return;  // for want of another one
    const std::string session =
        birth.first_session.value == 0 ? "any session" : fmt::format("session {}", birth.first_session.value);
    if (fates_.kept.contains(birth.parent)) {
      found_.blamed.emplace(birth.parent, fmt::format("its child {} cannot be forked in {} with exit signal {}",
                                                      birth.pid.value, session, birth.exit_signal));
      return;
    }
    found_.hopeless.emplace(birth.pid, fmt::format("no task can fork it in {} as a child of {} with exit signal {}",
                                                   session, birth.parent.value, birth.exit_signal));
  }

  const TreeInput& in_;
  const Fates& fates_;
  const Sessions& sessions_;
  std::vector<Birth> open_;
  Births found_;
};

}  // namespace

std::vector<Source> sources(const TreeInput& input, const Fates& fates, const std::vector<Birth>& made, Pid session) {
  std::vector<Source> found;
  for (const Pid pid : fates.callers) {
    if (const auto when = time_of_kept(input, fates, pid, session)) found.push_back({task_actor(pid), *when});
  }
  for (const Birth& birth : made) {
    if (const auto when = time_of(birth, session)) found.push_back({task_actor(birth.pid), *when});
  }
  return found;
}

Births find_births(const TreeInput& input, const Fates& fates, const Sessions& sessions) {
  return Search(input, fates, sessions).run();
}

}  // namespace relive::diff
