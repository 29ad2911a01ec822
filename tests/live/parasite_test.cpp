#include "parasite/session.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "live/child.h"
#include "task/procfs.h"

namespace relive {
namespace {

using parasite::Session;
using parasite::Visit;
using task::FrozenTask;
using testing::Child;
using testing::ChildEnd;

int echo(ChildEnd end) {
  end.say('r');
  for (;;) end.say(end.hear());
}

TEST(ParasiteTest, RunsInsideAndLeavesTheTaskAsItWas) {
  const Child child(echo);
  auto task = FrozenTask::freeze(child.pid());
  ASSERT_TRUE(task.has_value()) << task.error().text();
  auto session = Session::infect(*task);
  ASSERT_TRUE(session.has_value()) << session.error().text();
  for (int visit_number = 0; visit_number < 3; ++visit_number) {
    auto visit = Visit::begin(*task, *session);
    ASSERT_TRUE(visit.has_value()) << visit.error().text();
    const auto pid = visit->syscall("getpid", SYS_getpid, {});
    ASSERT_TRUE(pid.has_value()) << pid.error().text();
    EXPECT_EQ(*pid, child.pid().value);
    const auto bad = visit->syscall("close a descriptor that is not there", SYS_close, {12345});
    ASSERT_FALSE(bad.has_value());
    EXPECT_EQ(bad.error().errno_value, EBADF);
    EXPECT_TRUE(session->present_in(task::read_proc(child.pid(), "maps").value()));
  }
  task->resume();
  EXPECT_EQ(child.ask('x'), 'x');
}

char state_of(model::Pid pid) {
  const auto status = task::read_proc(pid, "status");
  return status ? task::status_field(*status, "State").front() : '?';
}
// As a snapshot does it, with signals that come before the parasite is put in, and behind that.
void visit_under(const Child& child, int early, int late) {
  auto task = FrozenTask::freeze(child.pid());
  ASSERT_TRUE(task.has_value()) << task.error().text();
  ::kill(child.pid().value, early);
  auto session = Session::infect(*task);
  ASSERT_TRUE(session.has_value()) << session.error().text();
  {
    auto visit = Visit::begin(*task, *session);
    ASSERT_TRUE(visit.has_value()) << visit.error().text();
    if (late != 0) ::kill(child.pid().value, late);
    EXPECT_TRUE(visit->syscall("getpid", SYS_getpid, {}).has_value());
  }
  EXPECT_TRUE(session->leave(*task).has_value());
  task->resume();
}

TEST(ParasiteTest, AStopThatComesMeanwhileStopsTheTaskBehindIt) {
  const Child child(echo);
  ASSERT_EQ(child.ask('x'), 'x');
  visit_under(child, SIGSTOP, 0);
  while (state_of(child.pid()) != 'T') ::usleep(1000);
  ::kill(child.pid().value, SIGCONT);
  EXPECT_EQ(child.ask('x'), 'x');
}

TEST(ParasiteTest, AStopThatIsTakenBackMeanwhileStopsNobody) {
  const Child child(echo);
  ASSERT_EQ(child.ask('x'), 'x');
  visit_under(child, SIGSTOP, SIGCONT);
  EXPECT_EQ(child.ask('x'), 'x');
}

TEST(ParasiteTest, GivesDescriptorsAndUndoesSteps) {
  const Child child(echo);
  auto task = FrozenTask::freeze(child.pid());
  ASSERT_TRUE(task.has_value()) << task.error().text();
  auto session = Session::infect(*task);
  ASSERT_TRUE(session.has_value()) << session.error().text();
  const auto count = [&] {
    int number = 0;
    for (int fd = 0; fd < 1024; ++fd) number += task->borrow(model::RemoteFd{fd}).has_value() ? 1 : 0;
    return number;
  };
  const int before = count();
  {
    auto visit = Visit::begin(*task, *session);
    ASSERT_TRUE(visit.has_value());
    const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const auto spare = visit->spare_descriptor();
    ASSERT_TRUE(spare.has_value());
    ASSERT_TRUE(visit->record_undo("close", SYS_close, {static_cast<std::uint64_t>(spare->value)}).has_value());
    const auto given = visit->give(null.get(), *spare);
    ASSERT_TRUE(given.has_value()) << given.error().text();
    EXPECT_EQ(task::read_proc_link(child.pid(), "fd/" + std::to_string(spare->value)).value(), "/dev/null");
    EXPECT_EQ(count(), before + 2);  // it and the channel
  }
  EXPECT_EQ(count(), before);
  task->resume();
  EXPECT_EQ(child.ask('x'), 'x');
}

TEST(ParasiteTest, MakesThreadsWithChosenIdsAndUndoMakesThemEnd) {
  const Child child(echo);
  auto task = FrozenTask::freeze(child.pid());
  ASSERT_TRUE(task.has_value()) << task.error().text();
  auto session = Session::infect(*task);
  ASSERT_TRUE(session.has_value()) << session.error().text();
  model::Tid tid{300};  // the lowest that nobody has: far from where new ids are handed out
  while (task::read_proc(model::Pid{tid.value}, "comm").has_value()) ++tid.value;
  {
    auto visit = Visit::begin(*task, *session);
    ASSERT_TRUE(visit.has_value());
    const auto made = visit->create_thread(tid, 0, {});
    ASSERT_TRUE(made.has_value()) << made.error().text();
    EXPECT_EQ(task->threads().size(), 2U);
    EXPECT_TRUE(task::read_proc(child.pid(), "task/" + std::to_string(tid.value) + "/comm").has_value());
  }
  EXPECT_EQ(task->threads().size(), 1U);
  EXPECT_FALSE(task::read_proc(child.pid(), "task/" + std::to_string(tid.value) + "/comm").has_value());
  task->resume();
  EXPECT_EQ(child.ask('x'), 'x');
}

TEST(ParasiteTest, CommitBringsEveryThreadToItsGoal) {
  const Child child(echo);
  auto task = FrozenTask::freeze(child.pid());
  ASSERT_TRUE(task.has_value()) << task.error().text();
  auto session = Session::infect(*task);
  ASSERT_TRUE(session.has_value()) << session.error().text();
  auto visit = Visit::begin(*task, *session);
  ASSERT_TRUE(visit.has_value());
  parasite::Program program;
  program.syscall("umask", SYS_umask, {0123});
  const auto& leader = task->threads()[0];
  const auto xstate = task->xstate(leader.tid).value();
  std::vector<parasite::ThreadGoal> goals(1);
  goals[0].tid = leader.tid;
  goals[0].wanted = {.registers = parasite::reissue_system_call(leader.registers),
                     .xstate = xstate,
                     .signal_mask = leader.signal_mask};
  const auto committed = visit->commit(program, goals);
  ASSERT_TRUE(committed.has_value()) << committed.error().text();
  ASSERT_TRUE(visit->depart().has_value());
  EXPECT_EQ(child.ask('x'), 'x');
  EXPECT_EQ(task::status_field(task::read_proc(child.pid(), "status").value(), "Umask"), "0123");
}

TEST(ParasiteTest, RefusesByName) {
  EXPECT_EQ(FrozenTask::freeze(model::Pid{::getpid()}).error().kind, ErrorKind::refused);
  EXPECT_EQ(FrozenTask::freeze(model::Pid{2}).error().kind, ErrorKind::refused);
  EXPECT_EQ(FrozenTask::freeze(model::Pid{0x3fffff}).error().kind, ErrorKind::not_found);
}

}  // namespace
}  // namespace relive
