// Where each process group that somebody joins comes from. Pure.
//
// A group is made by the task whose pid it has; it goes on while it has a member. Where the task is dead and no kept
// member is left, a *lender* makes it: a temporary task with the group's number as pid, in the group's session.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "diff/tree_births.h"

namespace relive::diff {

struct GroupOrigin {
  enum class Kind : std::uint8_t {
    goes_on,  // a kept task, or one outside, is in it
    session,  // made by the setsid(2) of the task of this number
    maker,    // made by the setpgid(2) of the wanted task of this number
    lender,   // made by a temporary task (Groups::lenders)
  };
  Kind kind = Kind::goes_on;
  std::set<model::Pid> members;  // wanted tasks that are to be in it and are not now; its maker not among them
};

struct Groups {
  std::map<model::Pid, GroupOrigin> origins;  // of groups that some task joins
  std::map<model::Pid, Birth> lenders;
  std::set<model::Pid> numbers;  // that must be free for a fork
  // Kept tasks that leave a group because its number must become free.
  std::set<model::Pid> moved_out;
  std::map<model::Pid, std::string> blamed;
  std::map<model::Pid, std::string> hopeless;
};

[[nodiscard]] Groups find_groups(const TreeInput& input, const Fates& fates, const std::vector<Birth>& births);

}  // namespace relive::diff
