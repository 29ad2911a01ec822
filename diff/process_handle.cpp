#include "diff/self_contained.h"

namespace relive::diff {

bool can_become(const model::ProcessHandle& wanted, const model::ProcessHandle& living) {
  if (wanted.thread != living.thread) return false;
  // A thread of the task that had ended has been made again by an earlier rollback: the same id, another identity.
  if (wanted.own) return wanted.pid == living.pid;
  return wanted.identity != 0 ? wanted.identity == living.identity : wanted.pid == -1 && living.pid == -1;
}

std::vector<std::string> changes(const model::ProcessHandle& /*wanted*/, const model::ProcessHandle& /*living*/) {
  return {};
}

CannotMake cannot_make(const model::ProcessHandle& wanted) {
  if (wanted.pid == -1) return {.reason = "its process had ended before the snapshot", .hint = {}};
  if (wanted.pid == 0)
    return {.reason = "its process is in a pid namespace that relive does not see",
            .hint = "run relive in the pid namespace of the machine"};
  return {};
}

}  // namespace relive::diff
