// A program with one of every kind of state, which knows whether it stands at its snapshot or behind it.
#pragma once

#include <string>

#include "live/child.h"

namespace relive::testing {

// What the words mean that the test says to run_victim().
inline constexpr char kWreck = 'w';  // change all of it; answers 'y'
inline constexpr char kJudge =
    '?';  // answers kBack, kWrecked, or kNeither (and what is wrong is in SCRATCH/complaints)
inline constexpr char kBack = 'b';
inline constexpr char kWrecked = 'u';
inline constexpr char kNeither = 'x';

// Never returns. Says 'y' when it is set up. `scratch`: an empty directory of its own.
int run_victim(ChildEnd end, const std::string& scratch);

}  // namespace relive::testing
