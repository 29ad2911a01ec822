// By whom, and when, each blank task is forked. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "diff/tree_sessions.h"
#include "diff/tree_step.h"

namespace relive::diff {

enum class Route : std::uint8_t {
  parent,       // its parent forks it
  sibling,      // a sibling forks it with CLONE_PARENT; both have one exit signal
  adoption,     // a descendant of the parent forks a helper, that forks it and exits; exit signal SIGCHLD
  left_behind,  // a lender forks it, and its exit leaves it to the reaper outside
};
// When the caller's session is the one needed: before its own setsid(2), after it, or at any time.
enum class When : std::uint8_t { any, before, after };

struct Birth {
  model::Pid pid{};
  bool temporary = false;      // a lender: of a session, or of a group
  model::Pid parent{};         // of a lender left to the reaper: the task that forks it
  model::Pid first_session{};  // 0: any
  bool begins_session = false;
  int exit_signal = SIGCHLD;
  bool suspends = false;
  Route route = Route::parent;
  Actor caller{};
  When when = When::any;
  bool memory = false;  // shared with the caller
  bool files = false;
  bool file_system = false;
  bool handlers = false;
};

struct Births {
  std::vector<Birth> made;  // each after its parent and its caller
  std::map<model::Pid, std::string> blamed;
  std::map<model::Pid, std::string> hopeless;
};

[[nodiscard]] Births find_births(const TreeInput& input, const Fates& fates, const Sessions& sessions);

// A task that is in the session at some time and can fork: who, and when. Kept ones first.
struct Source {
  Actor who;
  When when = When::any;
};
[[nodiscard]] std::vector<Source> sources(const TreeInput& input, const Fates& fates, const std::vector<Birth>& made,
                                          model::Pid session);

}  // namespace relive::diff
