// What becomes of a task whose keeper is killed while it has the task in its hand (docs/failure-model.md).
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "base/fault.h"
#include "live/child.h"
#include "parasite/session.h"
#include "task/procfs.h"

namespace relive {
namespace {

using parasite::Program;
using parasite::Session;
using parasite::Visit;
using task::FrozenTask;
using testing::Child;
using testing::ChildEnd;

constexpr std::uint64_t kOwnUmask = 022;
constexpr std::uint64_t kPreparedUmask = 0111;
constexpr std::uint64_t kWantedUmask = 0123;

int echo(ChildEnd end) {
  ::umask(kOwnUmask);
  end.say('r');
  for (;;) end.say(end.hear());
}

struct After {
  std::string umask, caught, ignored, threads;
  bool operator==(const After&) const = default;
};

After look(model::Pid pid) {
  const std::string status = task::read_proc(pid, "status").value_or("");
  const auto field = [&](const char* name) { return std::string(task::status_field(status, name)); };
  return {.umask = field("Umask"), .caught = field("SigCgt"), .ignored = field("SigIgn"), .threads = field("Threads")};
}

// A whole rollback in small: a step that is prepared and recorded, a thread that is made, a commit.
void visit_and_change(model::Pid pid) {
  auto task = FrozenTask::freeze(pid);
  if (!task) ::_exit(1);
  auto session = Session::infect(*task);
  if (!session || !fault_point("infected")) ::_exit(2);
  auto visit = Visit::begin(*task, *session);
  if (!visit || !fault_point("begun")) ::_exit(3);
  model::Tid tid{300};
  while (task::read_proc(model::Pid{tid.value}, "comm").has_value()) ++tid.value;
  if (!visit->record_undo("umask", SYS_umask, {kOwnUmask}) || !fault_point("recorded")) ::_exit(4);
  if (!visit->syscall("umask", SYS_umask, {kPreparedUmask}) || !fault_point("prepared")) ::_exit(5);
  if (!visit->create_thread(tid, 0, {}) || !fault_point("thread made")) ::_exit(6);
  const task::FrozenThread leader = task->threads()[0];
  const auto xstate = task->xstate(leader.tid).value();
  std::vector<parasite::ThreadGoal> goals(2);
  goals[0].tid = leader.tid;
  goals[0].wanted = {.registers = parasite::reissue_system_call(leader.registers),
                     .xstate = xstate,
                     .signal_mask = leader.signal_mask};
  goals[1].tid = tid;
  goals[1].surplus = true;
  Program commit;
  commit.syscall("umask", SYS_umask, {kWantedUmask});
  if (!visit->commit(commit, goals) || !visit->depart()) ::_exit(7);
  ::_exit(0);
}

TEST(OrphanTest, AKilledKeeperLeavesTheTaskBeforeOrBehindTheRollbackAtEveryStep) {
  bool behind_seen = false;
  bool before_seen = false;
  for (std::uint64_t at = 0;; ++at) {
    const Child child(echo);
    const After before = look(child.pid());
    const pid_t keeper = ::fork();
    if (keeper == 0) {
      arm_faults({.action = FaultPlan::Action::kill, .at = at});
      visit_and_change(child.pid());
    }
    int status = 0;
    ::waitpid(keeper, &status, 0);
    SCOPED_TRACE("killed at step " + std::to_string(at));
    ASSERT_EQ(child.ask('x'), 'x') << "the task does not go on";
    for (int tries = 0; look(child.pid()).threads != "1" && tries < 1000; ++tries) ::usleep(1000);
    After after = look(child.pid());
    EXPECT_TRUE(after.umask == before.umask || after.umask == "0123") << after.umask;
    (after.umask == before.umask ? before_seen : behind_seen) = true;
    after.umask = before.umask;
    EXPECT_EQ(after.caught, before.caught);
    EXPECT_EQ(after.ignored, before.ignored);
    EXPECT_EQ(after.threads, before.threads);
    if (WIFEXITED(status)) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
      break;
    }
  }
  EXPECT_TRUE(before_seen);
  EXPECT_TRUE(behind_seen);
}

}  // namespace
}  // namespace relive
