// What this machine and this user allow: each finding is proven by doing it to a child of ours, not by looking up a
// version.
#pragma once

#include <string>
#include <vector>

namespace relive::cli {

struct Finding {
  std::string name;
  bool ok = false;
  bool required = false;  // without it no rollback works at all
  std::string detail;     // what was seen, or why not
  std::string refused;    // not ok: what relive then refuses
};

// All but the trackers (tracking::prove_trackers). Takes a few milliseconds; leaves no process behind.
std::vector<Finding> probe_machine();

}  // namespace relive::cli
