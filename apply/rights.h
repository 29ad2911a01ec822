// A thread gives up what diff/rights.h has planned.
#pragma once

#include <vector>

#include "base/result.h"
#include "diff/rights.h"
#include "parasite/session.h"

namespace relive::apply {

// Appends the steps to a program of the thread itself: rights belong to threads, not to tasks. None of them fails where
// the plan was made from the rights that the thread has. They reset the parent-death signal and the dumpable mark
// (commit_creds() of Linux): set these behind them.
Result<void> append_rights(parasite::Arena& arena, const std::vector<diff::RightsStep>& steps,
                           parasite::Program& program);

}  // namespace relive::apply
