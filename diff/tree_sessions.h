// How each session that blank tasks need comes to them. Pure.
//
// A session is handed on by fork alone: a blank gets its caller's. A session whose leader is dead and which has no
// living member that is kept is begun again by a *lender*: a temporary task with the session's number as pid. A blank
// that will lead a session of its own may carry another one first, for children that it forks before its setsid(2).
#pragma once

#include <map>
#include <string>

#include "diff/tree_fate.h"

namespace relive::diff {

struct Sessions {
  std::map<model::Pid, model::Pid> lenders;  // session -> the lender's parent in the tree; the reaper's pid: anywhere
  std::map<model::Pid, model::Pid> carried;  // blank that leads a session of its own -> the session it is forked in
  // What stands in the way: living tasks that must be re-created for it, and wanted ones for which nothing helps.
  std::map<model::Pid, std::string> blamed;
  std::map<model::Pid, std::string> hopeless;
};

[[nodiscard]] Sessions find_sessions(const TreeInput& input, const Fates& fates);

// Living tasks of the session that are kept and can fork now.
[[nodiscard]] bool goes_on(const TreeInput& input, const Fates& fates, model::Pid session);

}  // namespace relive::diff
