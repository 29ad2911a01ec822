#include "diff/tree_step.h"

#include <fmt/format.h>

#include <cstdlib>

#include "base/overloaded.h"
#include "diff/process.h"

namespace relive::diff {

namespace {

std::string fork_text(const ForkBlank& call) {
  std::string line = fmt::format("fork {}", text(call.child));
  if (call.sibling) line += ", CLONE_PARENT";
  if (call.memory) line += ", CLONE_VM";
  if (call.files) line += ", CLONE_FILES";
  if (call.file_system) line += ", CLONE_FS";
  if (call.handlers) line += ", CLONE_SIGHAND";
  if (call.suspends) line += ", CLONE_VFORK";
  if (!call.sibling && call.exit_signal == 0) line += ", no exit signal";
  if (!call.sibling && call.exit_signal != 0 && call.exit_signal != SIGCHLD) {
    line += fmt::format(", exit signal {}", signal_name(call.exit_signal));
  }
  return line;
}

std::string status_text(int status) {
  if (WIFSIGNALED(status)) return fmt::format("killed by {}", signal_name(WTERMSIG(status)));
  return fmt::format("status {}", WEXITSTATUS(status));
}

std::string orphans_text(const std::vector<Actor>& orphans, const Actor& adopter) {
  if (orphans.empty()) return {};
  std::string line;
  for (const Actor& orphan : orphans) line += (line.empty() ? "; " : ", ") + text(orphan);
  return line + fmt::format(" to {}", text(adopter));
}

}  // namespace

std::string text(const Actor& actor) {
  switch (actor.kind) {
    case Actor::Kind::task:
      return fmt::to_string(actor.number);
    case Actor::Kind::helper:
      return fmt::format("helper {}", actor.number);
    case Actor::Kind::relive:
      return "relive";
    case Actor::Kind::outside:
      return fmt::format("outside {}", actor.number);
  }
  return "?";
}

std::string text(const TreeStep& step) {
  const std::string call = std::visit(
      Overloaded{
          [](const ForkBlank& made) { return fork_text(made); },
          [](const StartSession&) { return std::string("setsid"); },
          [](const SetGroup& made) { return fmt::format("setpgid {} (was {})", made.group.value, made.before.value); },
          [](const SetSubreaper& made) { return fmt::format("child subreaper {}", made.value ? "on" : "off"); },
          [](const ExitWith& made) {
            return fmt::format("exit, {}{}", status_text(made.status), orphans_text(made.orphans, made.adopter));
          },
          [](const Kill& made) {
            return fmt::format("kill {}{}", text(made.target), orphans_text(made.orphans, made.adopter));
          },
          [](const Reap& made) { return fmt::format("wait for {}", text(made.child)); },
      },
      step.call);
  return fmt::format("{}: {}", text(step.actor), call);
}

}  // namespace relive::diff
