// A plan's steps played on the living forest as they are written down: who is whose child, in which group and session,
// by the kernel's rules as docs/tree.md tells them. A step that the kernel would not carry out is found here, and the
// plan refused: no plan leaves the planner that this does not lead to the goal. Pure.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "diff/tree_step.h"
#include "model/forest.h"

namespace relive::diff {

// A task as the steps have left it. Kernel names in brackets.
struct Tracked {
  Actor parent;  // real_parent
  pid_t group = 0;
  pid_t session = 0;
  int exit_signal = 0;
  bool child_subreaper = false;  // is_child_subreaper
  bool zombie = false;
  int status = 0;
  bool blank = false;      // forked by a step
  bool temporary = false;  // no task of the goal
  Actor suspended_by{};    // number 0: by nobody
  bool operator==(const Tracked&) const = default;
};

class Track {
 public:
  Track(const model::Forest& living, const model::Surroundings& surroundings);

  // Adds the step, and plays it. `why` is shown beside it.
  void step(Actor actor, TreeCall call, std::string why = {});
  // The call, ExitWith or Kill, by which `dying` dies; its living children go to `adopter`. The flags of subreapers are
  // set first as that needs.
  void death(Actor actor, TreeCall call, Actor dying, std::optional<Actor> adopter, const std::string& why = {});

  [[nodiscard]] const Tracked* find(Actor actor) const;
  [[nodiscard]] const std::map<Actor, Tracked>& tasks() const { return tasks_; }
  [[nodiscard]] std::vector<Actor> children(Actor parent) const;
  [[nodiscard]] Actor actor_of(model::Pid parent) const;  // a task, relive, or one outside
  [[nodiscard]] const std::vector<TreeStep>& steps() const { return steps_; }
  // What the kernel would have said no to; empty: nothing.
  [[nodiscard]] const std::string& broken() const { return broken_; }
  void breaks(const std::string& what);
  // A dead task that its parent outside will wait for some time.
  void forget(Actor dead) { tasks_.erase(dead); }

 private:
  bool play(Actor actor, const ForkBlank& call);
  bool play(Actor actor, const StartSession& call);
  bool play(Actor actor, const SetGroup& call);
  bool play(Actor actor, const SetSubreaper& call);
  bool play(Actor actor, const ExitWith& call);
  bool play(Actor actor, const Kill& call);
  bool play(Actor actor, const Reap& call);
  bool die(Actor dying, int status);
  [[nodiscard]] bool acts(Actor actor) const;
  [[nodiscard]] bool taken(pid_t number) const;
  [[nodiscard]] bool group_lives(pid_t group) const;
  [[nodiscard]] Actor new_parent(Actor dying) const;

  const model::Surroundings& surroundings_;
  std::map<Actor, Tracked> tasks_;
  std::vector<TreeStep> steps_;
  std::string broken_;
};

}  // namespace relive::diff
