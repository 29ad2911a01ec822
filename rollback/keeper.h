// The keeper: the process that owns one task's snapshots.
//
// It listens on the task's socket (rollback/registry.h), serves its owner and root, one request at a time, and is
// attached to nobody between requests. It ends when the task ends, when the last snapshot was dropped, or on SIGTERM;
// in the last two cases nothing of relive's is left in the task. A request that has begun is finished even if its
// command is killed.
#pragma once

#include "base/result.h"
#include "rollback/engine.h"
#include "rollback/protocol.h"
#include "rollback/registry.h"

namespace relive::rollback {

// The keeper's only inherited descriptor besides stdio: a pipe to who started it.
inline constexpr int kHandshake = 3;

// The body of the process. Tells `handshake` (a pipe, closed afterwards) an empty frame as soon as it listens, or the
// error for which it ends. Returns the exit status.
int run_keeper(const TaskKey& key, UniqueFd handshake);

// One request to one engine: what the keeper does between receiving and answering.
Result<Answer> serve(Engine& engine, const Request& request);

}  // namespace relive::rollback
