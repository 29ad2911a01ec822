// Random programs for the simulator: what the tasks of a tree may do to each other. One random engine, so that a seed
// repeats a run.
#pragma once

#include <csignal>
#include <random>
#include <vector>

#include "tests/unit/kernel_simulator.h"

namespace relive::testing {

// One system call of a program, so that the live test can make the same one.
struct ProgramCall {
  enum class Kind : std::uint8_t { none, clone, setsid, setpgid, subreaper, exec, exit, kill, wait };
  Kind kind = Kind::none;
  pid_t caller = 0;
  SimulatedClone clone{};
  pid_t target = 0;
  pid_t group = 0;
  int value = 0;
};

struct ProgramTaste {
  std::size_t most = 40;      // tasks
  bool root_is_calm = false;  // the root forks and waits only
  bool shares = true;         // CLONE_FILES and CLONE_FS
  bool shares_memory = true;  // ... also CLONE_VM, CLONE_SIGHAND, vfork
  bool execs = true;
};

class RandomProgram {
 public:
  using Random = std::mt19937_64;
  RandomProgram(KernelSimulator& kernel, Random& random, pid_t root, ProgramTaste taste)
      : kernel_(kernel), random_(random), root_(root), taste_(taste) {}

  // Chooses a call, makes it in the simulator, and tells it. `result`: what the simulator answered.
  ProgramCall call(int& result) {
    ProgramCall made = choose();
    result = make(made);
    return made;
  }

  int make(const ProgramCall& call) {
    switch (call.kind) {
      case Kind::none:
        return 0;
      case Kind::clone:
        return kernel_.clone(call.caller, call.clone);
      case Kind::setsid:
        return kernel_.setsid(call.caller);
      case Kind::setpgid:
        return kernel_.setpgid(call.caller, call.target, call.group);
      case Kind::subreaper:
        return kernel_.set_subreaper(call.caller, call.value != 0);
      case Kind::exec:
        return kernel_.exec(call.caller);
      case Kind::exit:
        return kernel_.exit(call.caller, call.value << 8);
      case Kind::kill:
        return kernel_.kill(call.target);
      case Kind::wait:
        return kernel_.wait(call.caller, call.target);
    }
    return 0;
  }

 private:
  using Kind = ProgramCall::Kind;

  int below(std::size_t end) { return static_cast<int>(random_() % end); }
  bool chance(int percent) { return below(100) < percent; }

  ProgramCall choose() {
    std::vector<pid_t> tree;
    std::vector<pid_t> runnable;
    for (const auto& [pid, task] : kernel_.tasks()) {
      if (!task.in_tree) continue;
      tree.push_back(pid);
      if (kernel_.runnable(pid)) runnable.push_back(pid);
    }
    if (runnable.empty()) return {};
    ProgramCall call{.caller = any(runnable)};
    const int dice = below(100);
    const bool calm = call.caller == root_ && taste_.root_is_calm;
    if (dice < 34 && tree.size() < taste_.most) {
      fork(call);
    } else if (dice < 44) {
      if (!calm) call.kind = Kind::setsid;
    } else if (dice < 60) {
      if (!calm) group(call, tree);
    } else if (dice < 66) {
      call.kind = Kind::subreaper;
      call.value = chance(70) ? 1 : 0;
    } else if (dice < 70) {
      if (!calm && taste_.execs) call.kind = Kind::exec;
    } else if (dice < 80) {
      if (!calm) {
        call.kind = Kind::exit;
        call.value = below(4);
      }
    } else if (dice < 86) {
      call.target = any(tree);
      if (call.target != root_) call.kind = Kind::kill;
    } else {
      wait(call);
    }
    return call;
  }

  void fork(ProgramCall& call) {
    call.kind = Kind::clone;
    SimulatedClone& clone = call.clone;
    if (chance(6)) clone.exit_signal = chance(50) ? 0 : SIGUSR1;
    if (chance(8)) {
      clone.parent = true;
      clone.exit_signal = 0;
    }
    if (!taste_.shares) return;
    if (taste_.shares_memory && chance(5)) clone.memory = true;
    if (clone.memory && chance(50)) clone.handlers = true;
    if (chance(4)) clone.files = true;
    if (chance(4)) clone.file_system = true;
    if (taste_.shares_memory && !clone.parent && chance(2)) clone.vfork = clone.memory = true;
  }

  void group(ProgramCall& call, const std::vector<pid_t>& tree) {
    call.kind = Kind::setpgid;
    call.target = chance(70) ? call.caller : any(tree);
    call.group = chance(40) ? call.target : kernel_.find(any(tree))->group;
  }

  void wait(ProgramCall& call) {
    std::vector<pid_t> children;
    for (const auto& [pid, task] : kernel_.tasks()) {
      if (task.parent == call.caller && task.zombie) children.push_back(pid);
    }
    if (children.empty()) return;
    call.kind = Kind::wait;
    call.target = any(children);
  }

  pid_t any(const std::vector<pid_t>& pids) { return pids[static_cast<std::size_t>(below(pids.size()))]; }

  KernelSimulator& kernel_;
  Random& random_;
  pid_t root_;
  ProgramTaste taste_;
};

}  // namespace relive::testing
