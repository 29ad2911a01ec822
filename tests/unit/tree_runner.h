// Carries out a plan's steps in the simulator.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/overloaded.h"
#include "diff/tree.h"
#include "tests/unit/kernel_simulator.h"

namespace relive::testing {

class TreeRunner {
 public:
  TreeRunner(KernelSimulator& kernel, pid_t relive, std::vector<model::Pid> numbers)
      : kernel_(kernel), relive_(relive), numbers_(std::move(numbers)) {}

  // Empty: all of them succeeded.
  std::string run(std::span<const diff::TreeStep> steps) {
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const int result = call(steps[i]);
      if (result < 0) return fmt::format("step {}: {}: {}", i + 1, diff::text(steps[i]), name(result));
    }
    return {};
  }

 private:
  static std::string name(int result) {
    return result == kNotRunnable ? "is not runnable" : std::string(::strerror(-result));
  }

  [[nodiscard]] pid_t pid(const diff::Actor& actor) const {
    using Kind = diff::Actor::Kind;
    if (actor.kind == Kind::relive) return relive_;
    if (actor.kind != Kind::helper) return actor.number;
    const auto found = helpers_.find(actor.number);
    return found == helpers_.end() ? 0 : found->second;
  }

  int call(const diff::TreeStep& step) {
    const pid_t actor = pid(step.actor);
    return std::visit(Overloaded{
                          [&](const diff::ForkBlank& made) { return fork(actor, made); },
                          [&](const diff::StartSession&) { return kernel_.setsid(actor); },
                          [&](const diff::SetGroup& made) { return set_group(actor, made); },
                          [&](const diff::SetSubreaper& made) { return kernel_.set_subreaper(actor, made.value); },
                          [&](const diff::ExitWith& made) { return kernel_.exit(actor, made.status); },
                          [&](const diff::Kill& made) { return kernel_.kill(pid(made.target)); },
                          [&](const diff::Reap& made) { return reap(step.actor, pid(made.child)); },
                      },
                      step.call);
  }

  int fork(pid_t actor, const diff::ForkBlank& made) {
    SimulatedClone call{.parent = made.sibling,
                        .memory = made.memory,
                        .files = made.files,
                        .file_system = made.file_system,
                        .handlers = made.handlers,
                        .vfork = made.suspends};
    call.exit_signal = made.sibling ? 0 : made.exit_signal;
    if (made.child.kind == diff::Actor::Kind::task) call.set_tid = made.child.number;
    pid_t child = kernel_.clone(actor, call);
    while (call.set_tid == 0 && child > 0 && std::ranges::binary_search(numbers_, model::Pid{child})) {
      const pid_t unfit = child;
      child = kernel_.clone(actor, call);
      kernel_.kill(unfit);
      kernel_.wait(actor, unfit);
    }
    if (child > 0 && actor == relive_) kernel_.put_into_tree(child);
    if (child > 0 && call.set_tid == 0) helpers_[made.child.number] = child;
    if (child > 0 && kernel_.find(child)->exit_signal != made.exit_signal) return -EPROTO;
    return child;
  }

  int set_group(pid_t actor, const diff::SetGroup& made) {
    if (kernel_.find(actor)->group != made.before.value) return -EPROTO;
    return kernel_.setpgid(actor, 0, made.group.value);
  }

  // A parent outside waits by itself.
  int reap(const diff::Actor& parent, pid_t child) {
    if (parent.kind == diff::Actor::Kind::outside) return kernel_.find(child) == nullptr ? 0 : -ECHILD;
    const pid_t reaped = kernel_.wait(pid(parent), child);
    return reaped == 0 ? -EAGAIN : reaped;
  }

  KernelSimulator& kernel_;
  pid_t relive_;
  std::vector<model::Pid> numbers_;
  std::map<pid_t, pid_t> helpers_;
};

}  // namespace relive::testing
