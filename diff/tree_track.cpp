#include "diff/tree_track.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <utility>

namespace relive::diff {

using model::Pid;

Track::Track(const model::Forest& living, const model::Surroundings& surroundings) : surroundings_(surroundings) {
  for (const model::TreeTask& task : living.tasks) tasks_[task_actor(task.pid)];
  for (const model::TreeTask& task : living.tasks) {
    Tracked& tracked = tasks_[task_actor(task.pid)];
    tracked = {.parent = actor_of(task.parent),
               .group = task.group.value,
               .session = task.session.value,
               .exit_signal = task.exit_signal,
               .child_subreaper = task.child_subreaper,
               .zombie = task.state == model::TaskState::zombie,
               .status = task.status};
    if (task.suspended_by.value != 0) tracked.suspended_by = task_actor(task.suspended_by);
  }
}

Actor Track::actor_of(Pid parent) const {
  if (tasks_.contains(task_actor(parent))) return task_actor(parent);
  if (surroundings_.relive && surroundings_.relive->pid == parent) return relive_actor();
  return {.kind = Actor::Kind::outside, .number = parent.value};
}

const Tracked* Track::find(Actor actor) const {
  const auto found = tasks_.find(actor);
  return found == tasks_.end() ? nullptr : &found->second;
}

std::vector<Actor> Track::children(Actor parent) const {
  std::vector<Actor> found;
  for (const auto& [actor, task] : tasks_) {
    if (task.parent == parent) found.push_back(actor);
  }
  return found;
}

void Track::breaks(const std::string& what) {
  if (broken_.empty()) broken_ = what;
}

void Track::step(Actor actor, TreeCall call, std::string why) {
  steps_.push_back({.actor = actor, .call = std::move(call), .undoable = true, .why = std::move(why)});
  TreeStep& made = steps_.back();
  made.undoable = std::visit([&](const auto& played) { return play(actor, played); }, made.call);
}

void Track::death(Actor actor, TreeCall call, Actor dying, std::optional<Actor> adopter, const std::string& why) {
  const std::vector<Actor> orphans = children(dying);
  if (!orphans.empty() && !adopter) breaks(fmt::format("{} leaves {} behind", text(dying), text(orphans.front())));
  if (!orphans.empty() && adopter && find(dying) != nullptr) {
    const std::string adoption = fmt::format("{} is to adopt {}", text(*adopter), text(orphans.front()));
    for (Actor above = find(dying)->parent; above != *adopter; above = find(above)->parent) {
      if (find(above) == nullptr) break;
      if (find(above)->child_subreaper) step(above, SetSubreaper{.value = false}, adoption);
    }
    if (const Tracked* task = find(*adopter); task != nullptr && !task->child_subreaper) {
      step(*adopter, SetSubreaper{.value = true}, adoption);
    }
    if (new_parent(dying) != *adopter) breaks(fmt::format("{} cannot adopt from {}", text(*adopter), text(dying)));
  }
  const auto set = [&](auto& made) {
    made.orphans = orphans;
    if (adopter) made.adopter = *adopter;
  };
  if (auto* exit = std::get_if<ExitWith>(&call)) set(*exit);
  if (auto* kill = std::get_if<Kill>(&call)) set(*kill);
  step(actor, std::move(call), why);
}

bool Track::acts(Actor actor) const {
  if (actor.kind == Actor::Kind::relive) return surroundings_.relive.has_value();
  const Tracked* task = find(actor);
  return task != nullptr && !task->zombie && task->suspended_by.number == 0;
}

bool Track::taken(pid_t number) const {
  const auto uses = [&](const auto& entry) {
    const auto& [actor, task] = entry;
    return (actor.kind == Actor::Kind::task && actor.number == number) || task.group == number ||
           task.session == number;
  };
  return std::ranges::any_of(tasks_, uses) ||
         std::ranges::find(surroundings_.taken, Pid{number}) != surroundings_.taken.end();
}

bool Track::group_lives(pid_t group) const {
  return std::ranges::any_of(tasks_, [&](const auto& entry) { return entry.second.group == group; }) ||
         std::ranges::find(surroundings_.groups, Pid{group}, &model::OutsideGroup::group) != surroundings_.groups.end();
}

// find_new_reaper() in kernel/exit.c. That it looks only where has_child_subreaper is set changes nothing: every
// descendant of a subreaper has it.
Actor Track::new_parent(Actor dying) const {
  const Tracked* task = find(dying);
  while (task != nullptr) {
    const Actor above = task->parent;
    task = find(above);
    if (task != nullptr && task->child_subreaper && !task->zombie) return above;
  }
  return {.kind = Actor::Kind::outside, .number = surroundings_.reaper.value};
}

bool Track::play(Actor actor, const ForkBlank& call) {
  if (!acts(actor)) breaks(fmt::format("{} cannot fork {}", text(actor), text(call.child)));
  if (call.child.kind == Actor::Kind::task && taken(call.child.number)) {
    breaks(fmt::format("the number of {} is taken", text(call.child)));
  }
  if (tasks_.contains(call.child)) breaks(fmt::format("{} lives", text(call.child)));
  Tracked made{.parent = actor, .exit_signal = call.exit_signal, .blank = true, .temporary = call.temporary};
  if (const Tracked* caller = find(actor)) {
    made.group = caller->group;
    made.session = caller->session;
    if (call.sibling) made.parent = caller->parent;
    if (call.sibling && caller->exit_signal != call.exit_signal) {
      breaks(fmt::format("{} has another exit signal than its sibling {}", text(call.child), text(actor)));
    }
  } else if (surroundings_.relive) {
    made.group = surroundings_.relive->group.value;
    made.session = surroundings_.relive->session.value;
  }
  bool seen = made.parent.kind == Actor::Kind::outside && made.parent.number != surroundings_.reaper.value;
  if (const Tracked* parent = find(made.parent)) seen = seen || parent->suspended_by.number != 0;
  tasks_[call.child] = made;
  if (call.suspends) {
    if (tasks_.contains(actor)) tasks_[actor].suspended_by = call.child;
  }
  return !seen;  // a parent outside would see the blank's end; one in vfork(2) could not wait for it
}

bool Track::play(Actor actor, const StartSession& /*call*/) {
  if (!acts(actor) || actor.kind != Actor::Kind::task || group_lives(actor.number)) {
    breaks(fmt::format("{} cannot begin a session", text(actor)));
  }
  Tracked& task = tasks_[actor];
  task.group = task.session = actor.number;
  return task.blank;
}

bool Track::play(Actor actor, const SetGroup& call) {
  Tracked& task = tasks_[actor];
  const pid_t group = call.group.value;
  const bool own = actor.kind == Actor::Kind::task && group == actor.number;
  const bool same_session = std::ranges::any_of(
      tasks_, [&](const auto& entry) { return entry.second.group == group && entry.second.session == task.session; });
  const auto& outside = surroundings_.groups;
  const bool there = own || same_session || std::ranges::any_of(outside, [&](const auto& known) {
                       return known.group.value == group && known.session.value == task.session;
                     });
  if (!acts(actor) || group <= 0 || !there || task.session == actor.number) {
    breaks(fmt::format("{} cannot go into group {}", text(actor), group));
  }
  task.group = group;
  const bool back = call.before == Pid{actor.number} || group_lives(call.before.value);
  return task.blank || back;
}

bool Track::play(Actor actor, const SetSubreaper& call) {
  if (!acts(actor)) breaks(fmt::format("{} cannot change its subreaper flag", text(actor)));
  tasks_[actor].child_subreaper = call.value;
  return true;
}

bool Track::play(Actor actor, const ExitWith& call) {
  if (!acts(actor)) breaks(fmt::format("{} cannot exit", text(actor)));
  const bool lasting = !tasks_[actor].temporary;  // a blank that is to be dead tells its parent so
  return die(actor, call.status) && !lasting;
}

bool Track::play(Actor /*actor*/, const Kill& call) {
  const Tracked* task = find(call.target);
  if (task == nullptr || task->zombie) breaks(fmt::format("{} cannot be killed", text(call.target)));
  die(call.target, SIGKILL);
  return false;
}

bool Track::die(Actor dying, int status) {
  const Actor parent = new_parent(dying);
  const Tracked* adopter = find(parent);
  bool undoable = true;
  for (auto& [actor, task] : tasks_) {
    if (task.suspended_by == dying) task.suspended_by = {};
    if (task.parent != dying) continue;
    task.parent = parent;
    task.exit_signal = SIGCHLD;
    if (adopter != nullptr && adopter->suspended_by.number != 0) undoable = false;
  }
  Tracked& task = tasks_[dying];
  task.zombie = true;
  task.status = status;
  task.suspended_by = {};
  return undoable;
}

bool Track::play(Actor actor, const Reap& call) {
  const Tracked* task = find(call.child);
  if (task == nullptr || !task->zombie || task->parent != actor ||
      (actor.kind != Actor::Kind::outside && !acts(actor))) {
    breaks(fmt::format("{} cannot wait for {}", text(actor), text(call.child)));
  }
  const bool blank = task != nullptr && task->blank;
  tasks_.erase(call.child);
  return blank;
}

}  // namespace relive::diff
