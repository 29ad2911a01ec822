// What a task looks like from outside, to be compared before and after a call that must not have changed it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/page_range.h"
#include "model/ids.h"

namespace relive::testing {

struct Likeness {
  std::vector<std::string> mappings;            // neighbours of one kind taken together, relive's own left out
  std::map<int, std::string> descriptors;       // link and fdinfo
  std::vector<std::string> threads;             // tid, name, and the status lines that a program could notice
  std::map<std::string, std::string> texts;     // limits, cwd, timers, oom_score_adj ...
  std::map<std::uint64_t, std::string> memory;  // contents of private writable ranges, by address
};

// Waits until all threads of the task sleep, or are stopped. REQUIRES: nobody is about to wake one.
Likeness look_at(model::Pid pid);

// What differs, for people; empty when nothing does. Per-thread rseq areas, which the kernel writes whenever a thread
// moves to another CPU, may differ.
std::vector<std::string> unlike(const Likeness& before, const Likeness& after);

}  // namespace relive::testing
