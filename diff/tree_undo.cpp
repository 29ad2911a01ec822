#include "diff/tree.h"
#include "diff/tree_track.h"

namespace relive::diff {

// Backwards over the steps: what a living task did has an inverse; a blank that is still there is killed and waited for
// by whoever is its parent then; what a blank did goes with it.
std::vector<TreeStep> undo_tree(const TreePlan& plan, const model::Forest& living,
                                const model::Surroundings& surroundings, std::size_t done) {
  Track track(living, surroundings);
  for (std::size_t i = 0; i < done; ++i) track.step(plan.steps[i].actor, plan.steps[i].call);
  const auto back = [&](Actor actor, TreeCall call) { track.step(actor, std::move(call), "undo"); };
  std::vector<Actor> dead;
  for (std::size_t i = done; i-- > 0;) {
    const auto& [actor, call, undoable, why] = plan.steps[i];
    if (const auto* fork = std::get_if<ForkBlank>(&call)) {
      const Tracked* blank = track.find(fork->child);
      if (blank == nullptr) continue;
      if (!blank->zombie) back(relive_actor(), Kill{.target = fork->child});
      dead.push_back(fork->child);
      std::erase_if(dead, [&](Actor child) {  // a parent in vfork(2) waits when its vfork child has gone, too
        const Actor parent = track.find(child)->parent;
        if (const Tracked* task = track.find(parent); task != nullptr && task->suspended_by.number != 0) return false;
        back(parent, Reap{.child = child});
        return true;
      });
      continue;
    }
    const Tracked* task = track.find(actor);
    if (task == nullptr || task->blank) continue;
    if (const auto* group = std::get_if<SetGroup>(&call)) {
      back(actor, SetGroup{.group = group->before, .before = group->group});
    } else if (const auto* flag = std::get_if<SetSubreaper>(&call)) {
      back(actor, SetSubreaper{.value = !flag->value});
    }
  }
  return {track.steps().begin() + static_cast<std::ptrdiff_t>(done), track.steps().end()};
}

}  // namespace relive::diff
