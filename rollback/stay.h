// One freeze of a tree: every task stands, has the parasite, and is being visited.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "diff/tree_step.h"
#include "model/tree.h"
#include "parasite/agreement.h"
#include "parasite/session.h"
#include "rollback/member.h"
#include "task/frozen_tree.h"

namespace relive::rollback {

// The tasks that relive has ever had a hand in, by pid.
using Members = std::map<model::Pid, Member>;

class Stay {
 public:
  struct Present {
    task::FrozenTask* task = nullptr;
    Member* member = nullptr;
    std::string maps_text;
    bool exec_since = false;  // it had the parasite, and executes another program now
    bool at_rest = false;     // it is as it was let go: it is not visited unless wake() says so
    std::optional<parasite::Visit> visit;
    std::optional<parasite::Visit> held;  // at rest, and must not run before the others are done
  };
  // A task that relive has forked in this stay: it ends with the stay unless keep() was called.
  struct Blank {
    task::FrozenTask task;
    Member* member = nullptr;                  // null: it is to be a zombie
    std::optional<parasite::Session> session;  // of one that is to be a zombie
    std::optional<int> left_status;            // it stands where a zombie stood, which had this status
    std::size_t turn = 0;                      // how many were forked before it
    bool executed = false;                     // it has memory of its own program, and not its parent's
    std::optional<parasite::Visit> visit;
  };

  // `also`: pids that belong to the tree whoever their parent is now. `rests` is asked of each task that has the
  // parasite whether it is at rest. Errors as FrozenTree::freeze.
  using Rests = std::function<bool(Member&, task::FrozenTask&)>;
  static Result<std::unique_ptr<Stay>> freeze(model::Pid root, std::span<const model::Pid> also, Members& members,
                                              const Rests& rests = {});
  // Takes the parasite out of tasks that are part of no snapshot, and lets all go.
  ~Stay();

  // Infects who has no parasite yet, and begins a visit in each task that is not at rest; `begun` is called for each
  // before anything else is done in it (and for blank tasks by who makes them): what the visit must keep clear. With
  // several tasks they share `agreement`, which is made where there is none. After a failure destroy the stay.
  using Begun = std::function<void(parasite::Visit&)>;
  // `agree`: they share one in any case.
  Result<void> visit_all(std::optional<parasite::TreeAgreement>& agreement, Begun begun = {}, bool agree = false);
  // Begins a visit in a task at rest.
  Result<void> wake(Present& present, std::optional<parasite::TreeAgreement>& agreement);
  void begun(parasite::Visit& visit) const {
    if (begun_) begun_(visit);
  }

  [[nodiscard]] task::FrozenTree& tree() { return tree_; }
  [[nodiscard]] std::map<model::Pid, Present>& present() { return present_; }
  // Of a living task or of a blank one; null if there is none, or it is at rest.
  [[nodiscard]] parasite::Visit* visit(model::Pid pid);
  [[nodiscard]] task::FrozenTask* task(model::Pid pid);
  [[nodiscard]] bool at_rest(model::Pid pid) const;
  [[nodiscard]] Member* member(model::Pid pid);
  [[nodiscard]] std::map<diff::Actor, Blank>& blanks() { return blanks_; }

  // Lets a blank task go its way to its end, and waits until it is a zombie.
  static void let_end(Blank& blank);

  // Tasks at rest, which are as `wanted`, do not run before all of the tree are done, should we die (Visit::hold). On
  // failure they may be held or not: let_rest() all the same.
  [[nodiscard]] std::uint32_t count_at_rest() const;
  Result<void> hold_at_rest(const model::Tree& wanted);
  // From now on they run on if we die.
  void let_rest();

  // Behind a commit: lets all tasks, blank ones too, go to their goals.
  Result<void> depart();
  // Behind a commit that must not be gone on from: no thread runs on when they depart.
  void break_off();
  // Gives every task its registers back: nothing is undone that was not to be.
  void end_visits();
  void resume();
  // Takes all of relive's out of all tasks. The first error; the others are left all the same.
  Result<void> leave_all();
  [[nodiscard]] std::uint64_t frozen_since_ns() const { return tree_.frozen_since_ns(); }

 private:
  explicit Stay(task::FrozenTree tree) : tree_(std::move(tree)) {}
  static Result<void> look_at(Present& present, bool is_root);
  Result<void> enter(Present& present);
  static Result<void> leave(Present& present);
  // In this order: blanks end before those who forked them wait for them, visits before their tasks run.
  Begun begun_;
  task::FrozenTree tree_;
  std::map<model::Pid, Present> present_;
  std::map<diff::Actor, Blank> blanks_;
};

// Takes all of relive's out of a visited task but the parasite itself, which Session::leave unmaps last.
Result<void> cure(Member& member, parasite::Visit& visit);

}  // namespace relive::rollback
