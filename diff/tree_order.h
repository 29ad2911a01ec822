// The stages of a tree plan, which must come before which, and the order that follows. Boost.Graph. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "diff/tree_groups.h"

namespace relive::diff {

// What is done at one go: a system call, or some that belong together.
struct Stage {
  enum class Kind : std::uint8_t {
    fork,           // of a blank, by its route
    begin_session,  // setsid(2)
    make_group,     // setpgid(2) to its own pid
    move_out,       // the same, so that the number of the group that it was in becomes free
    join_group,     // setpgid(2) to the wanted group
    hold_group,     // a helper joins the group, so that it goes on while its members change
    let_go,         // that helper ends
    subreaper,      // the wanted flag
    leave,          // a lender ends
    end,            // a living task is killed, and waited for by its parent
    exit,           // a task becomes the zombie it was
  };
  Kind kind = Kind::fork;
  model::Pid task;   // of hold_group and let_go: the group
  model::Pid group;  // join_group: which
  Actor host{};      // hold_group, let_go: who forks the helper
};
[[nodiscard]] std::string text(const Stage& stage);

struct Order {
  std::vector<Stage> stages;                                // in order
  std::vector<std::pair<std::size_t, std::size_t>> before;  // indices into it
  std::vector<std::string> circle;  // not empty: there is no order, for these wait for each other
};

struct OrderInput {
  const TreeInput& input;
  const Fates& fates;
  const std::vector<Birth>& births;  // the groups' lenders among them
  const Groups& groups;
};

// Undoable stages of blanks come first, then those that other forks need, then what else changes living tasks.
// `hold`: keep groups up with helpers where all their members change.
[[nodiscard]] Order find_order(const OrderInput& input, bool hold);

}  // namespace relive::diff
