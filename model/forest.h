// The tasks of a tree and how they hang together: parents, process groups, sessions, what they share. Values only; the
// rest of a task (memory, descriptors, threads) is model/task.h.
//
// A forest, because orphans that a task outside has adopted, and siblings made with CLONE_PARENT, belong to the tree
// although their parent is outside of it.
#pragma once

#include <csignal>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/ids.h"

namespace relive::model {

// What a task shares with others of the tree: per object the least pid among those that share it (kcmp(2)); 0: nobody.
struct Sharing {
  pid_t memory = 0;       // CLONE_VM
  pid_t files = 0;        // CLONE_FILES
  pid_t file_system = 0;  // CLONE_FS
  pid_t handlers = 0;     // CLONE_SIGHAND; the kernel has it with CLONE_VM only
  bool operator==(const Sharing&) const = default;
};

enum class TaskState : std::uint8_t {
  alive,   // some thread of it lives, also when the leader has exited
  zombie,  // waits for its parent to wait
};

// All numbers as relive's own pid namespace has them. A session's and a group's id is the number of the task that made
// it, and goes on when that one is dead.
struct TreeTask {
  Pid pid;
  Pid parent;                 // a pid that no task of the forest has: a task outside
  Pid group;                  // getpgid(2)
  Pid session;                // getsid(2)
  int exit_signal = SIGCHLD;  // field 38 of proc_pid_stat(5); 0: none
  bool child_subreaper = false;
  TaskState state = TaskState::alive;
  int status = 0;      // of a zombie, as wait4(2) will tell it
  Pid suspended_by{};  // the vfork(2) child that this task waits for to exec or exit; 0: none
  Sharing sharing{};
  bool operator==(const TreeTask&) const = default;
};

struct Forest {
  std::vector<TreeTask> tasks;  // by pid, ascending
  bool operator==(const Forest&) const = default;
};

// A group that has a member outside of the tree, and the session it belongs to.
struct OutsideGroup {
  Pid group;
  Pid session;
  bool operator==(const OutsideGroup&) const = default;
};

// The process that can fork a task where nothing of the tree can.
struct Forker {
  Pid pid;
  Pid group;
  Pid session;
  bool operator==(const Forker&) const = default;
};

// What the living forest stands in.
struct Surroundings {
  // The task outside that adopts the tree's orphans where no task of the tree does: the nearest living ancestor of the
  // tree that is a child subreaper, else init of the pid namespace. It is taken to wait for whatever it adopts.
  Pid reaper{1};
  // Numbers that tasks outside of the tree use as pid, thread id, group or session; thread ids of the tree's own tasks.
  std::vector<Pid> taken;
  std::vector<OutsideGroup> groups;
  std::optional<Forker> relive;  // relive itself, if it may fork for the tree
  // Living tasks that cannot be rewritten in place, and why: "executes under a seccomp filter since", "another task
  // with that pid".
  std::map<Pid, std::string> recreate;
};

}  // namespace relive::model
