// A keeper of its own for a task.
#pragma once

#include <string>

#include "base/result.h"
#include "rollback/registry.h"

namespace relive::client {

// Starts a process of its own that holds nothing of the caller's (terminal, descriptors, directory, session) and
// outlives it. Returns when it listens, or with the reason why it could not begin. `program` is executed: a `relive`
// of this release, which the keeper is a hidden command of.
//
// The caller may have other threads: between fork and exec nothing is done but system calls, and no fork handler runs
// (_Fork, glibc 2.34). It gets a SIGCHLD for a child that is waited for here.
Result<void> start_keeper(const rollback::TaskKey& key, const std::string& program);

}  // namespace relive::client
