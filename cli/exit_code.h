// The exit codes of every command. They answer the question "what is with my task now?".
#pragma once

#include "apply/outcome.h"
#include "base/result.h"

namespace relive::cli {

enum class ExitCode : int {
  done = 0,
  untouched = 1,    // nothing was changed: not found, refused, busy, not permitted, failed and undone
  usage = 2,        // the words of the call are wrong
  stopped = 3,      // a rollback was broken off by the kernel: the task is left stopped, or was killed (--on-failure)
  unsupported = 4,  // this kernel, machine or release lacks what is needed
};

constexpr ExitCode exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage:
      return ExitCode::usage;
    case ErrorKind::unsupported:
      return ExitCode::unsupported;
    case ErrorKind::not_found:
    case ErrorKind::refused:
    case ErrorKind::permission:
    case ErrorKind::busy:
    case ErrorKind::task_died:
    case ErrorKind::system:
    case ErrorKind::injected:
      return ExitCode::untouched;
  }
  return ExitCode::untouched;
}

constexpr ExitCode exit_code(apply::Fate fate) {
  switch (fate) {
    case apply::Fate::done:
      return ExitCode::done;
    case apply::Fate::untouched:
      return ExitCode::untouched;
    case apply::Fate::stopped:
    case apply::Fate::killed:
      return ExitCode::stopped;
  }
  return ExitCode::stopped;
}

}  // namespace relive::cli
