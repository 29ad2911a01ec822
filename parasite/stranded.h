// A tree whose keeper has died behind the decision, and whose tasks have done all that they can do themselves: they
// wait for a share of their agreement that is nobody's of them (wire.h: Agreement::remaining).
#pragma once

#include <optional>

#include "base/result.h"
#include "model/ids.h"

namespace relive::parasite {

// The agreement's address in the task, where it waits for nothing but that share. Tasks that are still at work on their
// programs are waited for, some seconds. Looks, never stops the task.
Result<std::optional<model::TaskAddress>> waits_for_others(model::Pid pid);

// The share is done: all tasks of the tree may go on. REQUIRES: waits_for_others() gave the address. They notice when
// they are woken, as by a freeze.
Result<void> let_go(model::Pid pid, model::TaskAddress agreement);

}  // namespace relive::parasite
