// Each rule of the tree planner, and the trees that real programs make, with the plan's text. docs/tree.md explains it.
#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <vector>

#include "diff/tree.h"

namespace relive {
namespace {

using model::Forest;
using model::Pid;
using model::Surroundings;
using model::TaskState;
using model::TreeTask;

constexpr pid_t kShell = 50;  // the root's parent, outside; it leads the session 50

TreeTask task(pid_t pid, pid_t parent, pid_t group, pid_t session) {
  return {.pid = {pid}, .parent = {parent}, .group = {group}, .session = {session}};
}
TreeTask leader(pid_t pid, pid_t parent) { return task(pid, parent, pid, pid); }
TreeTask zombie(TreeTask made, int status) {
  made.state = TaskState::zombie;
  made.status = status;
  return made;
}
TreeTask subreaper(TreeTask made) {
  made.child_subreaper = true;
  return made;
}
TreeTask signals(TreeTask made, int exit_signal) {
  made.exit_signal = exit_signal;
  return made;
}
TreeTask memory_of(TreeTask made, pid_t first) {
  made.sharing.memory = first;
  return made;
}
TreeTask in_vfork(TreeTask made, pid_t child) {
  made.suspended_by = {child};
  return made;
}

Surroundings around_shell() {
  Surroundings made;
  made.taken = {{1}, {kShell}};
  made.groups = {{.group = {kShell}, .session = {kShell}}};
  return made;
}

diff::TreePlan plan(const std::vector<TreeTask>& wanted, const std::vector<TreeTask>& living,
                    const Surroundings& surroundings = around_shell()) {
  return diff::plan_tree({.tasks = wanted}, {.tasks = living}, surroundings);
}

// The plan as --dry-run shows it, after an empty line; refusals and notes where there are some.
std::string shown(const diff::TreePlan& plan) {
  std::string text = "\n";
  for (const auto& refusal : plan.refusals) text += "refused: " + refusal.object + ": " + refusal.reason + "\n";
  for (const auto& note : plan.notes) text += "note: " + note + "\n";
  if (!plan.refusals.empty()) return text;
  for (const auto& line : diff::lines(plan)) text += line + "\n";
  return text;
}
std::string shown(const std::vector<TreeTask>& wanted, const std::vector<TreeTask>& living,
                  const Surroundings& surroundings = around_shell()) {
  return shown(plan(wanted, living, surroundings));
}

// --- what real programs make

TEST(TreeShapesTest, NothingToDo) {
  const std::vector<TreeTask> tree{leader(100, kShell), task(101, 100, 100, 100), leader(102, 100)};
  EXPECT_EQ(shown(tree, tree), R"(
)");
}

// The postmaster leads a session (pg_ctl), and so does each of its children.
TEST(TreeShapesTest, PostgresWithBackends) {
  EXPECT_EQ(shown({leader(100, 1), leader(101, 100), leader(102, 100), leader(110, 100), leader(111, 100)},
                  {leader(100, 1), leader(101, 100), leader(102, 100), zombie(leader(111, 100), 9), leader(140, 100)}),
            R"(
140: ended: born since
110: created: ended since
111: re-created: dead since
  1  100: fork 110  # ended since
  2  110: setsid
  3! 100: wait for 111
  4  100: fork 111  # dead since
  5  111: setsid
  6! relive: kill 140  # born since
  7! 100: wait for 140
)");
}

// A shell with job control: each pipeline is a group, led by its first command.
TEST(TreeShapesTest, ShellWhosePipelineHasEnded) {
  EXPECT_EQ(shown({leader(100, kShell), task(101, 100, 101, 100), task(102, 100, 101, 100), task(103, 100, 101, 100)},
                  {leader(100, kShell), task(120, 100, 120, 100)}),
            R"(
120: ended: born since
101: created: ended since
102: created: ended since
103: created: ended since
  1  100: fork 101  # ended since
  2  101: setpgid 101 (was 100)
  3  100: fork 102  # ended since
  4  102: setpgid 101 (was 100)
  5  100: fork 103  # ended since
  6  103: setpgid 101 (was 100)
  7! relive: kill 120  # born since
  8! 100: wait for 120
)");
}
TEST(TreeShapesTest, ShellWhosePipelineHasLostItsLeaderBefore) {
  EXPECT_EQ(shown({leader(100, kShell), task(102, 100, 101, 100), task(103, 100, 101, 100)}, {leader(100, kShell)}),
            R"(
102: created: ended since
103: created: ended since
  1  100: fork 102  # ended since
  2  100: fork 103  # ended since
  3  100: fork 101, no exit signal  # lends its number to group 101
  4  101: setpgid 101 (was 100)
  5  102: setpgid 101 (was 100)
  6  103: setpgid 101 (was 100)
  7  101: exit, status 0
  8  100: wait for 101
)");
}
// The number of the leader is taken by its group: the members leave until it is forked.
TEST(TreeShapesTest, ShellWhosePipelineHasLostItsLeaderSince) {
  EXPECT_EQ(shown({leader(100, kShell), task(101, 100, 101, 100), task(102, 100, 101, 100), task(103, 100, 101, 100)},
                  {leader(100, kShell), task(102, 100, 101, 100), task(103, 100, 101, 100)}),
            R"(
101: created: ended since
  1  102: setpgid 102 (was 101)  # its group's number must become free
  2! 103: setpgid 103 (was 101)  # its group's number must become free
  3  100: fork 101  # ended since
  4  101: setpgid 101 (was 100)
  5  102: setpgid 101 (was 102)
  6  103: setpgid 101 (was 103)
)");
}

// A reload: the workers are others.
TEST(TreeShapesTest, NginxAfterAReload) {
  EXPECT_EQ(shown({leader(100, 1), task(101, 100, 100, 100), task(102, 100, 100, 100)},
                  {leader(100, 1), task(111, 100, 100, 100), task(112, 100, 100, 100)}),
            R"(
111: ended: born since
112: ended: born since
101: created: ended since
102: created: ended since
  1  100: fork 101  # ended since
  2  100: fork 102  # ended since
  3! relive: kill 111  # born since
  4! 100: wait for 111
  5! relive: kill 112  # born since
  6! 100: wait for 112
)");
}

// make runs a compiler with vfork, or posix_spawn, which is the same: caught in between at the snapshot.
TEST(TreeShapesTest, MakeInVfork) {
  EXPECT_EQ(shown({in_vfork(memory_of(task(100, kShell, 100, kShell), 100), 103), task(101, 100, 100, kShell),
                   memory_of(task(103, 100, 100, kShell), 100)},
                  {task(100, kShell, 100, kShell), task(105, 100, 100, kShell)}),
            R"(
105: ended: born since
101: created: ended since
103: created: ended since
  1  100: fork 101  # ended since
  2! relive: kill 105  # born since
  3! 100: wait for 105
  4  100: fork 103, CLONE_VM, CLONE_VFORK  # ended since
)");
}
TEST(TreeShapesTest, MakeInAVforkSince) {
  EXPECT_EQ(shown({task(100, kShell, 100, kShell), task(101, 100, 100, kShell)},
                  {in_vfork(memory_of(task(100, kShell, 100, kShell), 100), 103),
                   memory_of(task(103, 100, 100, kShell), 100)}),
            R"(
103: ended: born since
101: created: ended since
  1! relive: kill 103  # born since
  2! 100: wait for 103
  3  100: fork 101  # ended since
)");
}
TEST(TreeShapesTest, MakeInTheSameVfork) {
  const std::vector<TreeTask> tree{in_vfork(memory_of(task(100, kShell, 100, kShell), 100), 103),
                                   memory_of(task(103, 100, 100, kShell), 100)};
  EXPECT_EQ(shown(tree, tree), R"(
)");
}

// A pool of workers with a resource tracker; one worker has died and nobody has joined it yet.
TEST(TreeShapesTest, PythonMultiprocessing) {
  EXPECT_EQ(shown({task(100, kShell, 100, kShell), task(101, 100, 100, kShell), task(102, 100, 100, kShell),
                   zombie(task(103, 100, 100, kShell), 256)},
                  {task(100, kShell, 100, kShell), task(101, 100, 100, kShell)}),
            R"(
102: created: ended since
103: created: ended since
  1  100: fork 102  # ended since
  2  100: fork 103  # ended since
  3! 103: exit, status 1
)");
}

// fork, setsid, fork, exit: the daemon's session has no leader, and its parent is init.
TEST(TreeShapesTest, DaemonByDoubleFork) {
  EXPECT_EQ(shown({leader(100, kShell), task(102, 1, 101, 101), task(103, 102, 101, 101)}, {leader(100, kShell)}),
            R"(
102: created: ended since
103: created: ended since
  1  100: fork 101, no exit signal  # lends its number to session 101
  2  101: setsid
  3  101: fork 102  # ended since
  4  102: fork 103  # ended since
  5  101: exit, status 0; 102 to outside 1
  6  100: wait for 101
)");
}
// As a session leader keeps a child of its own: supervisors below a subreaper of the tree (systemd --user, containers).
TEST(TreeShapesTest, DaemonBelowASubreaper) {
  EXPECT_EQ(shown({subreaper(leader(100, 1)), task(102, 100, 101, 101)}, {subreaper(leader(100, 1))}),
            R"(
102: created: ended since
  1  100: fork 101  # lends its number to session 101
  2  101: setsid
  3  101: fork 102, CLONE_PARENT  # ended since
  4  101: exit, status 0
  5  100: wait for 101
)");
}
TEST(TreeShapesTest, DaemonThatWasNoneYet) {
  EXPECT_EQ(shown({leader(100, kShell), task(101, 100, 100, 100)}, {leader(100, kShell), leader(101, 100)}),
            R"(
101: re-created: session 100 -> 101, which a task cannot take back
  1! relive: kill 101  # session 100 -> 101, which a task cannot take back
  2! 100: wait for 101
  3  100: fork 101  # session 100 -> 101, which a task cannot take back
)");
}

// --- rules

TEST(TreeRulesTest, AChildOfAnUnfitTaskIsRecreatedWithIt) {
  auto surroundings = around_shell();
  surroundings.recreate[{101}] = "no_new_privs set";
  const std::vector<TreeTask> tree{leader(100, kShell), task(101, 100, 100, 100), task(102, 101, 100, 100)};
  EXPECT_EQ(shown(tree, tree, surroundings), R"(
101: re-created: no_new_privs set
102: re-created: its parent 101 must be re-created
  1! relive: kill 102  # its parent 101 must be re-created
  2! 101: wait for 102
  3! relive: kill 101  # no_new_privs set
  4! 100: wait for 101
  5  100: fork 101  # no_new_privs set
  6  101: fork 102  # its parent 101 must be re-created
)");
}

TEST(TreeRulesTest, TheRootCannotBeRecreatedBelowAShell) {
  auto surroundings = around_shell();
  surroundings.recreate[{100}] = "no_new_privs set";
  EXPECT_EQ(shown({leader(100, kShell)}, {leader(100, kShell)}, surroundings), R"(
refused: task 100: it must be re-created (no_new_privs set), and its parent 50 outside of the tree would see its end
)");
}

TEST(TreeRulesTest, TheRootIsForkedByReliveThatRunsIt) {
  auto surroundings = around_shell();
  surroundings.relive = model::Forker{{60}, {60}, {60}};
  EXPECT_EQ(shown({leader(100, 60), task(101, 100, 100, 100)}, {}, surroundings), R"(
100: created: ended since
101: created: ended since
  1  relive: fork 100  # ended since
  2  100: setsid
  3  100: fork 101  # ended since
)");
  EXPECT_EQ(shown({leader(100, kShell)}, {}, surroundings), R"(
note: 100: its parent 50 was outside of the tree; it is 60 now
100: created: ended since
  1  relive: fork 100  # ended since
  2  100: setsid
)");
  EXPECT_EQ(shown({leader(100, kShell)}, {}), R"(
refused: task 100: no task can fork it in any session as a child of 50 with exit signal 17
)");
}

TEST(TreeRulesTest, ANumberOfAStrangerIsRefused) {
  auto surroundings = around_shell();
  surroundings.taken.push_back({101});
  EXPECT_EQ(shown({leader(100, kShell), task(101, 100, 100, 100)}, {leader(100, kShell)}, surroundings),
            R"(
refused: task 101: its number is taken by a task outside of the tree
)");
}

// A session whose leader is dead: a lender begins it again, and siblings forked by it hold it up.
TEST(TreeRulesTest, ASessionWithoutLeaderIsLent) {
  EXPECT_EQ(shown({leader(100, kShell), task(102, 100, 101, 101), task(103, 102, 103, 101)}, {leader(100, kShell)}),
            R"(
102: created: ended since
103: created: ended since
  1  100: fork 101  # lends its number to session 101
  2  101: setsid
  3  101: fork 102, CLONE_PARENT  # ended since
  4  101: exit, status 0
  5  100: wait for 101
  6  102: fork 103  # ended since
  7  103: setpgid 103 (was 101)
)");
}
// Not while some member of it lives: that one forks.
TEST(TreeRulesTest, ASessionWithoutLeaderGoesOn) {
  EXPECT_EQ(shown({leader(100, kShell), task(102, 100, 101, 101), task(103, 100, 101, 101)},
                  {leader(100, kShell), task(103, 100, 101, 101)}),
            R"(
102: created: ended since
  1  103: fork 102, CLONE_PARENT  # ended since
)");
}
// Its leader has died since: the number is taken until all members are gone.
TEST(TreeRulesTest, ASessionsLeaderTakesItsMembersAlong) {
  EXPECT_EQ(shown({leader(100, kShell), leader(101, 100), task(102, 101, 101, 101)},
                  {leader(100, kShell), task(102, 1, 101, 101)}),
            R"(
101: created: ended since
102: re-created: parent 101 -> 1
  1! relive: kill 102  # parent 101 -> 1
  2! outside 1: wait for 102
  3  100: fork 101  # ended since
  4  101: setsid
  5  101: fork 102  # parent 101 -> 1
)");
}
// A child that was forked before its parent called setsid.
TEST(TreeRulesTest, ATaskForksBeforeItsSetsid) {
  EXPECT_EQ(shown({leader(100, kShell), leader(101, 100), task(102, 101, 100, 100), task(103, 101, 101, 101)},
                  {leader(100, kShell)}),
            R"(
101: created: ended since
102: created: ended since
103: created: ended since
  1  100: fork 101  # ended since
  2  101: fork 102  # ended since
  3  101: setsid
  4  101: fork 103  # ended since
)");
}

TEST(TreeRulesTest, AGroupWithoutLeaderIsLent) {
  EXPECT_EQ(shown({leader(100, kShell), task(101, 100, 100, 100), task(103, 101, 102, 100)},
                  {leader(100, kShell), task(101, 100, 100, 100)}),
            R"(
103: created: ended since
  1  101: fork 103  # ended since
  2  100: fork 102, no exit signal  # lends its number to group 102
  3  102: setpgid 102 (was 100)
  4  103: setpgid 102 (was 100)
  5  102: exit, status 0
  6  100: wait for 102
)");
}
TEST(TreeRulesTest, LivingTasksChangeTheirGroups) {
  EXPECT_EQ(shown({leader(100, kShell), task(101, 100, 101, 100), task(102, 100, 101, 100)},
                  {leader(100, kShell), task(101, 100, 100, 100), task(102, 100, 102, 100)}),
            R"(
  1  101: setpgid 101 (was 100)
  2  102: setpgid 101 (was 102)
)");
}
// Both groups have one member and no leader: helpers keep them up meanwhile.
TEST(TreeRulesTest, GroupsWithoutLeadersAreExchanged) {
  EXPECT_EQ(shown({leader(100, kShell), task(103, 100, 101, 100), task(104, 100, 102, 100)},
                  {leader(100, kShell), task(103, 100, 102, 100), task(104, 100, 101, 100)}),
            R"(
  1  100: fork helper 1, no exit signal  # keeps group 101 up
  2  helper 1: setpgid 101 (was 100)
  3  100: fork helper 2, no exit signal  # keeps group 102 up
  4  helper 2: setpgid 102 (was 100)
  5  103: setpgid 101 (was 102)
  6  helper 1: exit, status 0
  7  100: wait for helper 1
  8  104: setpgid 102 (was 101)
  9  helper 2: exit, status 0
 10  100: wait for helper 2
)");
}

TEST(TreeRulesTest, ASiblingForksWithTheSameExitSignal) {
  EXPECT_EQ(shown({leader(100, 1), leader(101, 100), signals(task(102, 100, 101, 101), SIGUSR1)}, {leader(100, 1)}),
            R"(
refused: task 100: it must be re-created (its child 102 cannot be forked in session 101 with exit signal 10), and no task can fork it in any session as a child of 1 with exit signal 17
)");
  EXPECT_EQ(shown({leader(100, kShell), task(101, kShell, 100, 100)}, {leader(100, kShell)}), R"(
101: created: ended since
  1! 100: fork 101, CLONE_PARENT  # ended since
)");
}
TEST(TreeRulesTest, AnExitSignalOfItsOwnIsGivenAtTheFork) {
  EXPECT_EQ(shown({leader(100, kShell), signals(task(101, 100, 100, 100), 0)},
                  {leader(100, kShell), task(101, 100, 100, 100)}),
            R"(
101: re-created: exit signal 0 -> 17
  1! relive: kill 101  # exit signal 0 -> 17
  2! 100: wait for 101
  3  100: fork 101, no exit signal  # exit signal 0 -> 17
)");
}

// Forward: the parent's death gives its child to init, and to nobody of the tree meanwhile.
TEST(TreeRulesTest, ATaskIsLeftToInit) {
  EXPECT_EQ(shown({leader(100, kShell), task(102, 1, 101, 100)},
                  {subreaper(leader(100, kShell)), task(101, 100, 101, 100), task(102, 101, 101, 100)}),
            R"(
101: ended: born since
  1  100: child subreaper off
  2! relive: kill 101; 102 to outside 1  # born since
  3! 100: wait for 101
)");
  EXPECT_EQ(shown({leader(100, kShell), task(102, 100, 101, 100)},
                  {leader(100, kShell), task(101, 100, 101, 100), task(102, 101, 101, 100)}),
            R"(
101: ended: born since
  1  100: child subreaper on  # 100 is to adopt 102
  2! relive: kill 101; 102 to 100  # born since
  3! 100: wait for 101
  4  100: child subreaper off
)");
}
TEST(TreeRulesTest, ALivingTaskBeginsItsSession) {
  EXPECT_EQ(shown({leader(100, kShell), leader(101, 100), task(102, 101, 101, 101)},
                  {leader(100, kShell), task(101, 100, 100, 100)}),
            R"(
102: created: ended since
  1! 101: setsid
  2  101: fork 102  # ended since
)");
}

TEST(TreeRulesTest, ZombiesComeBackWithTheirStatus) {
  EXPECT_EQ(shown({leader(100, kShell), zombie(task(101, 100, 100, 100), 768), zombie(leader(102, 100), SIGTERM)},
                  {leader(100, kShell), task(101, 100, 100, 100), zombie(task(103, 100, 100, 100), 0)}),
            R"(
103: ended: dead, and not waited for yet
102: created: ended since
  1  100: fork 102  # ended since
  2  102: setsid
  3! 100: wait for 103
  4! 101: exit, status 3
  5! 102: exit, killed by SIGTERM
)");
  EXPECT_EQ(shown({leader(100, kShell), zombie(task(101, 100, 100, 100), SIGSEGV | 0x80)}, {leader(100, kShell)}),
            R"(
refused: task 101: it was dead with a core dump, which would be written again
)");
  EXPECT_EQ(shown({leader(100, kShell), zombie(task(101, 1, 100, 100), 0)}, {leader(100, kShell)}),
            R"(
refused: task 101: it was dead, for 1 outside of the tree to wait for, which is done
)");
}

TEST(TreeRulesTest, ObjectsAreSharedAtTheFork) {
  EXPECT_EQ(shown({memory_of(leader(100, kShell), 100), memory_of(task(101, 100, 100, 100), 100),
                   memory_of(leader(102, 101), 100)},
                  {leader(100, kShell)}),
            R"(
101: created: ended since
102: created: ended since
  1  100: fork 101, CLONE_VM  # ended since
  2  101: fork 102, CLONE_VM  # ended since
  3  102: setsid
)");
  EXPECT_EQ(shown({leader(100, kShell), task(101, 100, 100, 100)},
                  {memory_of(leader(100, kShell), 100), memory_of(task(101, 100, 100, 100), 100)}),
            R"(
101: re-created: shares its memory with 100 since
  1! relive: kill 101  # shares its memory with 100 since
  2! 100: wait for 101
  3  100: fork 101  # shares its memory with 100 since
)");
}

TEST(TreeRulesTest, ParentsOutsideAreNotedOnly) {
  EXPECT_EQ(shown({leader(100, kShell)}, {leader(100, 1)}), R"(
note: 100: its parent 50 was outside of the tree; it is 1 now
)");
  EXPECT_EQ(shown({leader(100, kShell)}, {leader(100, kShell), leader(101, kShell)}), R"(
note: 101: its parent 50 outside of the tree will see its end
101: ended: born since
  1! relive: kill 101  # born since
)");
}

TEST(TreeRulesTest, AForestThatIsNoneIsRefused) {
  EXPECT_EQ(shown({leader(100, 101), leader(101, 100)}, {}), R"(
refused: task 100: the wanted forest is none: it is its own ancestor
refused: task 101: the wanted forest is none: it is its own ancestor
)");
  EXPECT_EQ(shown({leader(100, kShell), task(101, 100, 101, 50), task(102, 100, 101, 100)}, {}), R"(
refused: task 102: the wanted forest is none: it is in a group of another session
refused: task 102: the wanted forest is none: it is in a group whose leader is in another session
)");
  EXPECT_EQ(shown({zombie(leader(100, kShell), 0), leader(101, 100)}, {}), R"(
refused: task 101: the wanted forest is none: it has a parent that is dead
)");
}

// --- the plan beside its steps

TEST(TreePlanTest, TellsWhatIsUndoableAndUndoesIt) {
  const std::vector<TreeTask> wanted{leader(100, 1), task(102, 100, 101, 101)};
  const std::vector<TreeTask> living{leader(100, 1), task(110, 100, 100, 100)};
  const auto made = plan(wanted, living);
  EXPECT_EQ(shown(made), R"(
110: ended: born since
102: created: ended since
  1  100: fork 101  # lends its number to session 101
  2  101: setsid
  3  101: fork 102, CLONE_PARENT  # ended since
  4  101: exit, status 0
  5  100: wait for 101
  6! relive: kill 110  # born since
  7! 100: wait for 110
)");
  EXPECT_EQ(made.undoable, 5U);
  std::string undone = "\n";
  for (const auto& step : diff::undo_tree(made, {.tasks = living}, around_shell(), 3))
    undone += diff::text(step) + "\n";
  EXPECT_EQ(undone, "\nrelive: kill 102\n100: wait for 102\nrelive: kill 101\n100: wait for 101\n");
  EXPECT_EQ(made.created, std::vector<Pid>{Pid{102}});
  EXPECT_EQ(made.ended, std::vector<Pid>{Pid{110}});
  EXPECT_EQ(made.kept, std::vector<Pid>{Pid{100}});
  EXPECT_EQ(made.sessions_begun, std::vector<Pid>{Pid{101}});
  EXPECT_EQ(made.numbers, (std::vector<Pid>{{100}, {101}, {102}, {110}}));
}

TEST(TreePlanTest, IsDrawnAsAGraph) {
  const auto made = plan({leader(100, kShell), leader(101, 100)}, {leader(100, kShell)});
  EXPECT_EQ(diff::dot(made), "digraph G {\n0[label=\"fork 101\"];\n1[label=\"session 101\"];\n0->1 ;\n}\n");
}

}  // namespace
}  // namespace relive
