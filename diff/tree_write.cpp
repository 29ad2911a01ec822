#include "diff/tree_write.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

namespace relive::diff {

using model::Pid;
using model::TreeTask;
using Kind = Stage::Kind;

namespace {

class Writer {
 public:
  Writer(const OrderInput& input, Track& track)
      : in_(input.input), fates_(input.fates), births_(input.births), track_(track) {}

  void write(const Stage& stage) {
    const Actor actor = task_actor(stage.task);
    switch (stage.kind) {
      case Kind::fork:
        return fork(birth(stage.task));
      case Kind::begin_session:
        return track_.step(actor, StartSession{});
      case Kind::make_group:
        return group(actor, stage.task);
      case Kind::move_out:
        return group(actor, stage.task, "its group's number must become free");
      case Kind::join_group:
        return group(actor, stage.group);
      case Kind::hold_group:
        return hold(stage);
      case Kind::let_go:
        return let_go(stage);
      case Kind::subreaper:
        return subreaper(actor, in_.wanted.find(stage.task)->child_subreaper);
      case Kind::leave:
        track_.death(actor, ExitWith{}, actor, adopter(actor));
        return reap(actor);
      case Kind::end:
        return end(actor);
      case Kind::exit:
        return track_.death(actor, ExitWith{.status = in_.wanted.find(stage.task)->status}, actor, adopter(actor));
    }
  }

  void subreaper(Actor actor, bool value) {
    const Tracked* task = track_.find(actor);
    if (task != nullptr && task->child_subreaper != value) track_.step(actor, SetSubreaper{.value = value});
  }

 private:
  [[nodiscard]] const Birth& birth(Pid pid) const { return *std::ranges::find(births_, pid, &Birth::pid); }

  [[nodiscard]] std::string why(const Birth& born) const {
    if (!born.temporary) {
      const auto reason = fates_.created.find(born.pid);
      return reason == fates_.created.end() ? std::string() : reason->second;
    }
    return fmt::format("lends its number to {} {}", born.begins_session ? "session" : "group", born.pid.value);
  }

  void fork(const Birth& born) {
    ForkBlank call{.child = task_actor(born.pid),
                   .sibling = born.route == Route::sibling,
                   .exit_signal = born.exit_signal,
                   .memory = born.memory,
                   .files = born.files,
                   .file_system = born.file_system,
                   .handlers = born.handlers,
                   .suspends = born.suspends,
                   .temporary = born.temporary};
    if (born.route != Route::adoption) return track_.step(born.caller, call, why(born));
    const Actor helper = new_helper();
    ForkBlank first = call;
    first.child = helper;
    first.exit_signal = 0;
    first.temporary = true;
    track_.step(born.caller, first, fmt::format("leaves {} to {}", born.pid.value, born.parent.value));
    track_.step(helper, call, why(born));
    track_.death(helper, ExitWith{}, helper, track_.actor_of(born.parent));
    reap(helper);
  }

  [[nodiscard]] Actor new_helper() { return {.kind = Actor::Kind::helper, .number = ++helpers_}; }

  void group(Actor actor, Pid wanted, const std::string& reason = {}) {
    const Tracked* task = track_.find(actor);
    if (task == nullptr || task->group == wanted.value) return;
    track_.step(actor, SetGroup{.group = wanted, .before = Pid{task->group}}, reason);
  }

  void hold(const Stage& stage) {
    const Actor helper = new_helper();
    holders_[stage.task] = helper;
    track_.step(stage.host, ForkBlank{.child = helper, .exit_signal = 0, .temporary = true},
                fmt::format("keeps group {} up", stage.task.value));
    group(helper, stage.task);
  }

  void let_go(const Stage& stage) {
    const Actor helper = holders_[stage.task];
    track_.step(helper, ExitWith{});
    reap(helper);
  }

  void end(Actor actor) {
    const TreeTask& task = *in_.living.find(Pid{actor.number});
    const auto reason = fates_.ended.find(task.pid);
    if (!is_zombie(task)) {
      track_.death(relive_actor(), Kill{.target = actor}, actor, adopter(actor),
                   reason == fates_.ended.end() ? std::string() : reason->second);
    }
    const Tracked* dead = track_.find(actor);
    const Actor reaper{.kind = Actor::Kind::outside, .number = in_.surroundings.reaper.value};
    if (dead != nullptr && dead->parent.kind == Actor::Kind::outside && dead->parent != reaper) {
      return track_.forget(actor);  // in its own time
    }
    reap(actor);
  }

  void reap(Actor child) {
    const Tracked* task = track_.find(child);
    if (task != nullptr) track_.step(task->parent, Reap{.child = child});
  }

  // Who is to have the children of one that dies.
  [[nodiscard]] std::optional<Actor> adopter(Actor dying) {
    std::optional<Actor> found;
    for (const Actor child : track_.children(dying)) {
      const Pid pid{child.number};
      std::optional<Actor> next;
      if (const auto known = fates_.adoptions.find(pid); known != fates_.adoptions.end() && fates_.kept.contains(pid)) {
        next = track_.actor_of(known->second);
      } else if (const auto born = std::ranges::find(births_, pid, &Birth::pid);
                 born != births_.end() && born->route == Route::left_behind) {
        next = track_.actor_of(born->parent);
      }
      if (!next || (found && *found != *next)) return std::nullopt;
      found = next;
    }
    return found;
  }

  const TreeInput& in_;
  const Fates& fates_;
  const std::vector<Birth>& births_;
  Track& track_;
  std::map<Pid, Actor> holders_;
  pid_t helpers_ = 0;
};

}  // namespace

Track write_steps(const OrderInput& input, const std::vector<Stage>& stages, const model::Forest& living,
                  const model::Forest& goal) {
  Track track(living, input.input.surroundings);
  Writer writer(input, track);
  for (const Stage& stage : stages) {
    writer.write(stage);
    if (!track.broken().empty()) return track;
  }
  for (const TreeTask& task : goal.tasks) {
    if (!is_zombie(task)) writer.subreaper(task_actor(task.pid), task.child_subreaper);
  }
  return track;
}

std::string missed(const Track& track, const model::Forest& goal) {
  for (const TreeTask& task : goal.tasks) {
    const Tracked* found = track.find(task_actor(task.pid));
    const auto misses = [&](const char* what) { return fmt::format("{}: {}", task.pid.value, what); };
    if (found == nullptr) return misses("is not there");
    if (found->parent != track.actor_of(task.parent)) return misses("has another parent");
    if (found->group != task.group.value) return misses("is in another group");
    if (found->session != task.session.value) return misses("is in another session");
    if (found->exit_signal != task.exit_signal) return misses("has another exit signal");
    if (found->suspended_by.number != task.suspended_by.value) return misses("waits for another vfork child");
    if (found->zombie != is_zombie(task)) return misses(found->zombie ? "is dead" : "is alive");
    if (found->zombie && found->status != task.status) return misses("has another status");
    if (!found->zombie && found->child_subreaper != task.child_subreaper) return misses("has another subreaper flag");
  }
  for (const auto& [actor, task] : track.tasks()) {
    const bool known = actor.kind == Actor::Kind::task &&
                       std::ranges::find(goal.tasks, Pid{actor.number}, &TreeTask::pid) != goal.tasks.end();
    if (!known) return fmt::format("{}: is too many", text(actor));
  }
  return {};
}

}  // namespace relive::diff
