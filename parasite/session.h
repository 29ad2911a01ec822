// The parasite of one task: it is put in once, stays mapped, and runs only while the task is frozen.
//
// A Session lives as long as the keeper's interest in the task. A Visit is one freeze: it borrows the driver thread
// (the leader, or another thread where the leader has exited), runs programs on it, and leaves it as it found it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/page_range.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "model/ids.h"
#include "parasite/arena.h"
#include "parasite/frame.h"
#include "parasite/program.h"
#include "task/frozen_task.h"

namespace relive::parasite {

class Session {
 public:
  // Puts the parasite into a frozen task through a system call instruction that it has (its code is never patched),
  // after taking out what a dead keeper left there. After a failure nothing of ours is in the task. If we are killed
  // meanwhile the task goes on as it was (parasite/way_home.h). Errors: busy, where another keeper has the task or a
  // dead one's work is not yet done (parasite/remains.h); refused, where there is no way home. It lies clear of
  // `avoid`.
  static Result<Session> infect(task::FrozenTask& task, std::span<const AddressRange> avoid = {});

  // Unmaps code and arena; the last act of a clean cure. REQUIRES: no Visit. Nothing to do where an execve(2) did it.
  Result<void> leave(task::FrozenTask& task);

  [[nodiscard]] Arena& arena() { return arena_; }
  // Ranges of the task's memory that are relive's: code, arena, and windows made by map_window. No part of any
  // snapshot.
  [[nodiscard]] const std::vector<AddressRange>& own_ranges() const { return own_ranges_; }
  void add_own_range(AddressRange range) { own_ranges_.push_back(range); }
  void remove_own_range(AddressRange range) { std::erase(own_ranges_, range); }
  [[nodiscard]] bool owns(std::uint64_t address) const;
  // Is the parasite still mapped where it was? false after execve(2).
  [[nodiscard]] bool present_in(std::string_view maps_text) const;

  // Where the tree's agreement is, or will be (parasite/agreement.h); the task takes part once it is mapped.
  [[nodiscard]] model::TaskAddress agreement_address() const;
  [[nodiscard]] bool takes_part() const { return takes_part_; }
  void take_part() { takes_part_ = true; }

  // The system call that `thread`, standing in restart_syscall(2), made itself: known if an earlier visit broke it off
  // and it has slept ever since.
  [[nodiscard]] std::optional<int> broken_off_call(const task::FrozenThread& thread) const;

 private:
  friend class Visit;
  explicit Session(Arena arena) : arena_(std::move(arena)) {}
  // Remembers which calls this freeze breaks off in a way that makes restart_syscall(2) of them.
  void note_broken_off(task::FrozenTask& task);
  std::map<model::Tid, user_regs_struct> broken_off_;
  Arena arena_;
  model::TaskAddress code_;
  std::uint64_t inode_ = 0;  // of the parasite's memory file
  bool takes_part_ = false;
  std::vector<AddressRange> own_ranges_;
};

// Where a thread is to be when the task goes on after a commit.
struct ThreadGoal {
  model::Tid tid;
  bool surplus = false;  // born since the snapshot: it ends
  FrameContents wanted;  // unless surplus. its alternate stack is set by `program`
  Program program;       // carried out by the thread itself, before it goes
};

// One stay in a frozen task. REQUIRES: the FrozenTask and the Session outlive it.
class Visit {
 public:
  static Result<Visit> begin(task::FrozenTask& task, Session& session);
  Visit(Visit&&) noexcept;
  Visit& operator=(Visit&&) = delete;
  // Unless commit() was called: undoes what the undo log holds, gives the driver its registers back. The task stays
  // frozen.
  ~Visit();

  [[nodiscard]] task::FrozenTask& task() { return *task_; }
  [[nodiscard]] Session& session() { return *session_; }
  [[nodiscard]] Arena& arena() { return session_->arena(); }
  [[nodiscard]] model::Tid driver() const { return driver_; }

  // Runs a program on the driver thread, in its own context, and copies the results back into it. An operation with
  // OnError::stop that fails ends the program and comes back as an error that names it.
  Result<void> run(Program& program);
  // The same on another frozen thread, whose registers are put back afterwards.
  Result<void> run_on(model::Tid tid, Program& program);
  // One system call on the driver. A negative result is an error that names `what`.
  Result<std::int64_t> syscall(std::string what, long number, std::initializer_list<std::uint64_t> arguments);

  // Records the inverse of a step BEFORE the step is taken. The log is carried out backwards by undo(), by the
  // destructor, or by the parasite itself when the keeper dies. An inverse must be harmless if its step never happened.
  Result<void> record_undo(std::string what, long number, std::initializer_list<std::uint64_t> arguments);
  Result<void> undo();

  // Gives the task a duplicate of our descriptor `fd` as number `as` (SCM_RIGHTS over a socket pair that exists for
  // this visit only). REQUIRES: `as` is free in the task. Close-on-exec is set on it. The caller records the undo
  // (close).
  Result<void> give(int fd, model::RemoteFd as);
  // Ranges and descriptor numbers that the spare_ calls shall not hand out, although they are free now.
  void keep_clear(std::span<const AddressRange> ranges, std::span<const model::RemoteFd> descriptors);

  // Makes a thread of the task with this id, thread-local storage and clear_child_tid. It is stopped before its first
  // instruction, runs nothing of the program's, and ends if the visit is undone. Refused by name where the id is taken
  // or may not be chosen (clone3 with set_tid wants CAP_CHECKPOINT_RESTORE in the task; else ns_last_pid is tried).
  Result<void> create_thread(model::Tid tid, std::uint64_t fs_base, model::TaskAddress clear_child_tid);

  // Makes a child of the task, with this id and exit signal (clone3(2)): a copy of the task in the driver's shape,
  // which has nothing of relive's mapped, stands before its first instruction, and is gone without a trace if the visit
  // is undone. REQUIRES: FrozenTask::end() was called for it before that (its destructor does). Refused by name where
  // the id is taken or may not be chosen, as in create_thread().
  struct Fork {
    model::Pid pid;
    int exit_signal = 0;
    std::uint64_t flags = 0;            // CLONE_*; none that shares memory
    bool child_signal_pending = false;  // SIGCHLD was pending for the task before: one more makes no difference
    // A zombie with this id is waited for in the same breath. If that is undone the new task ends by itself, and
    // nobody waits for it (begin_from_nothing()).
    bool takes_place_of_zombie = false;
  };
  Result<task::FrozenTask> fork_task(const Fork& fork);

  // Appends to a commit program what kills a child of the task and waits for it; where the keeper has done that
  // already, or another task has waited for it, nothing happens. `handle`: a pidfd of ours. May fail, and is undone
  // with the visit.
  Result<void> end_child(model::Pid pid, int handle, Program& program);

  // The task is one that relive has just forked: it has nothing to go back to, and ends if the visit is undone: with
  // `status` (as wait(2) tells it), where it has taken the place of a task that had ended so and not been waited for.
  Result<void> begin_from_nothing(std::optional<int> status);
  // Appends what makes the task end with this status.
  Result<void> add_end(int status, Program& program);

  // The point of no return. Parks every thread of the task in the parasite, so that whatever happens to the keeper from
  // here on the task reaches `goals` alone; ends surplus threads; runs `program` on the driver.
  // REQUIRES: a goal for every thread in task().threads().
  // A failure before the point (ErrorKind other than `system`, undo still possible: committed() is false) leaves the
  // visit as it was. A failure behind it: the task must not run again; broken() is true.
  Result<void> commit(Program& program, std::vector<ThreadGoal>& goals);
  [[nodiscard]] bool committed() const;
  [[nodiscard]] bool broken() const;

  // Instead of a visit, of a task that is right as it stands (rollback/rest.h) but must not run before the others of
  // its tree are done: every thread is led into the parasite, as behind stage() with nothing to do, and runs nothing as
  // long as we live. Should we die it waits for the others, if it was decided. The destructor leads all back. `goals`:
  // where the threads stand. REQUIRES: the session takes part in an agreement, which is open. After a failure the task
  // is as before.
  static Result<Visit> hold(task::FrozenTask& task, Session& session, std::span<const ThreadGoal> goals);

  // commit() in its parts, for several tasks that take part in one agreement (parasite/agreement.h): stage() each, then
  // TreeAgreement::decide(), then carry_out() each. stage() leaves the visit as it was if it fails; unstage() takes it
  // back. Behind the decision carry_out() is as commit() behind the point.
  Result<void> stage(Program& program, std::vector<ThreadGoal>& goals);
  void unstage();
  Result<void> carry_out(Program& program, std::vector<ThreadGoal>& goals);
  // Another task of the tree could not be brought to its end: this one must not run on either.
  void break_off();

  // Behind commit(): lets every thread go to its goal, which ends the freeze, and waits until each has gone. A task
  // that was stopped by a signal (job control) goes there when it is continued. Broken: leaves it stopped (SIGSTOP).
  Result<void> depart();

  // The lowest descriptor number from `from` on that is free in the task and was not handed out by this call before in
  // this visit. Limited by RLIMIT_NOFILE: refused by name when none is left.
  Result<model::RemoteFd> spare_descriptor();
  // The numbers that the kernel will give to the next `count` descriptors the task opens: the lowest free ones. So one
  // program can make something and move it to a spare number.
  Result<std::vector<model::RemoteFd>> next_descriptors(std::size_t count);
  // Is what the task's table has there relive's?
  [[nodiscard]] bool is_own_descriptor(model::RemoteFd fd) const;
  // The other task has the same table (CLONE_FILES): what one visit fills and hands out, the other knows.
  // REQUIRES: nothing was asked of this visit before; both tasks stand.
  void share_descriptors(const Visit& other);
  // A program has filled, or emptied, a number for longer than it ran.
  void note_open(model::RemoteFd fd);
  void note_closed(model::RemoteFd fd);
  // A free range of `bytes` of the task's address space, kept for this visit (nothing is mapped there yet).
  Result<model::TaskAddress> spare_range(std::uint64_t bytes);

 private:
  struct State;
  Visit(task::FrozenTask& task, Session& session);
  // Takes the arena, in which nothing of an earlier visit is needed any more.
  void take_arena();
  // The mask is changed only while the thread stands in the parasite, so that it comes back if we are killed in
  // between.
  Result<void> block_signals(const task::FrozenThread& thread);
  Result<void> give_back(const task::FrozenThread& thread);
  Result<std::int64_t> trap_call(std::uint64_t action, std::uint64_t old_action);
  Result<void> run_at(model::Tid tid, model::TaskAddress program_address, const wire::Program& ran);
  Result<void> learn_descriptors();
  void note_own(model::RemoteFd fd);
  // What this visit has put there; of several with one table each closes its own.
  [[nodiscard]] std::vector<model::RemoteFd> own_descriptors() const;
  Result<void> open_channel();
  Result<void> park(const task::FrozenThread& thread);
  Result<void> record_end_of(model::RemoteFd handle, const Fork& fork);
  Result<std::int64_t> make_child(const Fork& fork, bool choose, model::RemoteFd handle);
  void control_end(model::Tid tid);
  Result<void> run_to_goal(model::Tid tid);
  task::FrozenTask* task_ = nullptr;
  Session* session_ = nullptr;
  model::Tid driver_;
  std::unique_ptr<State> state_;
};

}  // namespace relive::parasite
