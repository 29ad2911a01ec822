// A blank task becomes another program, as tasks do: by execve(2), under our hand.
#pragma once

#include "base/result.h"
#include "model/ids.h"
#include "task/frozen_task.h"

namespace relive::parasite {

// Makes a blank task execute `program`, a descriptor of its own. Behind that it has the fresh memory that the kernel
// gives to this program and stands before its first instruction, of which it runs none. All that execve(2) does to a
// task is done to this one: signal actions, rights (also those of a set-user-ID file), descriptors that close on exec,
// an exit signal that is SIGCHLD. No capability is needed, which the other way to another /proc/PID/exe
// (PR_SET_MM_EXE_FILE, prctl(2)) asks for. REQUIRES: nothing of ours is in the task. A failure leaves the task as it
// was, or dead: end it.
Result<void> execute(task::FrozenTask& blank, model::RemoteFd program);

}  // namespace relive::parasite
