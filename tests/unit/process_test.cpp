#include "diff/process.h"
#include "task/frozen_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstring>

#include "capture/process_text.h"
#include "diff/credentials.h"
#include "tests/unit/texts.h"

namespace relive {
namespace {

using diff::plan_process;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

model::QueuedSignal queued(int number, int code = 0) {
  model::QueuedSignal signal;
  std::memcpy(&signal.info[0], &number, sizeof number);
  std::memcpy(&signal.info[8], &code, sizeof code);
  return signal;
}

TEST(ParseTimersTest, ReadsWhatTheKernelWrites) {
  const auto timers = capture::parse_timers(
      "ID: 7\nsignal: 14/0000000000000007\nnotify: signal/pid.9871\nClockID: 7\n"
      "ID: 3\nsignal: 10/00007fff86e452a8\nnotify: signal/tid.9872\nClockID: -6\n"
      "ID: 4\nsignal: 0/(null)\nnotify: none/pid.9871\nClockID: 0\n");
  ASSERT_TRUE(timers.has_value()) << timers.error().text();
  ASSERT_THAT(*timers, SizeIs(3));
  EXPECT_EQ(
      (*timers)[0],
      (model::PosixTimer{
          .id = 3, .clock = -6, .notify = SIGEV_THREAD_ID, .signal = 10, .value = 0x7fff86e452a8, .target = {9872}}));
  EXPECT_EQ((*timers)[1], (model::PosixTimer{.id = 4, .clock = 0, .notify = SIGEV_NONE}));
  EXPECT_EQ((*timers)[2], (model::PosixTimer{.id = 7, .clock = 7, .notify = SIGEV_SIGNAL, .signal = 14, .value = 7}));
  EXPECT_THAT(capture::parse_timers("").value(), IsEmpty());
}

TEST(ParseTimersTest, RefusesMalformedText) {
  const std::string good = "ID: 7\nsignal: 14/0000000000000007\nnotify: signal/pid.9871\nClockID: 7\n";
  for (const char* bad : {"nonsense\n", "signal: 1/0\n", "ID: \n", "ID: 99999999999\n", "ID: 1\n", "ID: 1\nID: 2\n",
                          "ID: 1\nsignal: 14\n", "ID: 1\nsignal: 14/xyz\n", "ID: 1\nsignal: 14/0\nnotify: signal\n",
                          "ID: 1\nsignal: 14/0\nnotify: pigeon/pid.1\n", "ID: 1\nsignal: 14/0\nnotify: signal/cat.1\n",
                          "ID: 1\nsignal: 14/0\nnotify: signal/pid.\n", "ID: 1\nsignal: 14/0\nnotify: signal/pid.1\n",
                          "ID: 1\nsignal: 14/0\nnotify: signal/pid.1\nClockID: x\n"}) {
    EXPECT_FALSE(capture::parse_timers(bad).has_value()) << bad;
    EXPECT_FALSE(capture::parse_timers(good + bad).has_value()) << bad;
  }
  for (std::size_t cut = 1; cut + 1 < good.size(); ++cut) {
    EXPECT_FALSE(capture::parse_timers(good.substr(0, cut)).has_value()) << cut;
  }
}

TEST(PlanProcessTest, NothingToDoForEqualTasks) {
  const auto plan = plan_process({}, {});
  EXPECT_THAT(plan.differences, IsEmpty());
  EXPECT_THAT(plan.operations, IsEmpty());
  EXPECT_THAT(plan.refusals, IsEmpty());
}

TEST(PlanProcessTest, SignalActionsAreSetBack) {
  model::Process wanted;
  model::Process living;
  living.actions[SIGTERM - 1] = {.handler = 0x5555, .flags = SA_RESTART};
  wanted.actions[SIGUSR1 - 1] = {.handler = 0x7777, .mask = 1};
  living.actions[SIGUSR1 - 1] = {.handler = 0x7777, .mask = 3};
  const auto plan = plan_process(wanted, living);
  ASSERT_THAT(plan.differences, SizeIs(2));
  EXPECT_EQ(plan.differences[1].object, "SIGTERM");
  EXPECT_EQ(plan.differences[1].text, "action default -> handler 0x5555");
  EXPECT_THAT(plan.differences[0].text, HasSubstr("mask 0000000000000001"));
  EXPECT_THAT(texts(plan), ElementsAre("set action of SIGUSR1: handler 0x7777", "set action of SIGTERM: default"));
}

TEST(PlanProcessTest, PendingSignalsAreQueuedAnewWhenTheyDiffer) {
  model::Process wanted;
  wanted.pending = {queued(SIGUSR1), queued(SIGRTMIN)};
  model::Process living = wanted;
  EXPECT_THAT(plan_process(wanted, living).operations, IsEmpty());
  living.pending = {queued(SIGALRM)};
  const auto plan = plan_process(wanted, living);
  EXPECT_THAT(texts(plan), ElementsAre("take pending signals, queue 2 again"));
  ASSERT_THAT(plan.differences, SizeIs(3));
  EXPECT_EQ(plan.differences[0].object, "SIGUSR1");
  EXPECT_EQ(plan.differences[0].sign, diff::Sign::removed);
  EXPECT_EQ(plan.differences[1].object, "SIGALRM");
  EXPECT_EQ(plan.differences[1].sign, diff::Sign::added);
}

TEST(PlanProcessTest, PendingSignalsSurviveWhatTheKernelWouldDropThemFor) {
  model::Process wanted;
  wanted.pending = {queued(SIGUSR1)};
  wanted.actions[SIGUSR1 - 1].handler = 1;  // setting "ignore" discards what is pending
  model::Process living = wanted;
  living.actions[SIGUSR1 - 1].handler = 0x1234;
  EXPECT_THAT(texts(plan_process(wanted, living)),
              ElementsAre("set action of SIGUSR1: ignore", "take pending signals, queue 1 again"));
  living = wanted = {};
  wanted.pending = living.pending = {queued(SIGALRM, SI_TIMER)};
  EXPECT_THAT(texts(plan_process(wanted, living)), ElementsAre("take pending signals, queue 1 again"));
}

TEST(PlanProcessTest, RunningDownIsNoDifferenceButIsSetBack) {
  model::Process wanted;
  model::Process living;
  wanted.interval_timers[ITIMER_REAL] = {.left_us = 3'200'000};
  living.interval_timers[ITIMER_REAL] = {.left_us = 1'000'000};
  wanted.timers = {{.id = 4, .clock = 1, .left_ns = 9'000'000'000}};
  living.timers = {{.id = 4, .clock = 1, .left_ns = 7'000'000'000}};
  const auto plan = plan_process(wanted, living);
  EXPECT_THAT(plan.differences, IsEmpty());
  EXPECT_THAT(texts(plan), ElementsAre("take pending signals, queue 0 again",
                                       "timer 4: set back to the time that was left (armed 9.0 s)",
                                       "itimer real: set back to the time that was left (armed 3.2 s)"));
}

TEST(PlanProcessTest, TimersArmedOrDisarmedSinceAreDifferences) {
  model::Process wanted;
  model::Process living;
  wanted.interval_timers[ITIMER_REAL] = {.left_us = 3'200'000};
  living.interval_timers[ITIMER_PROF] = {.left_us = 500'000, .interval_us = 500'000};
  wanted.timers = {{.id = 1, .clock = 1}, {.id = 2, .clock = 1, .left_ns = 1'000'000'000}};
  living.timers = {{.id = 1, .clock = 1}, {.id = 2, .clock = 1, .left_ns = 60'000'000'000}, {.id = 9, .clock = 0}};
  const auto plan = plan_process(wanted, living);
  ASSERT_THAT(plan.differences, SizeIs(4));
  EXPECT_EQ(plan.differences[0].text, "armed 1.0 s -> armed 60.0 s");
  EXPECT_EQ(plan.differences[1].object, "timer 9");
  EXPECT_EQ(plan.differences[1].text, "made since, off");
  EXPECT_EQ(plan.differences[2].text, "armed 3.2 s -> off");
  EXPECT_EQ(plan.differences[3].text, "off -> armed 0.5 s, every 0.5 s");
  EXPECT_THAT(texts(plan),
              ElementsAre("take pending signals, queue 0 again",
                          "timer 2: set back to the time that was left (armed 1.0 s)", "timer 9: delete",
                          "itimer real: set back to the time that was left (armed 3.2 s)", "itimer prof: disarm"));
}

TEST(PlanProcessTest, MissingTimersAreMadeAgainOrRefused) {
  model::Process wanted;
  model::Process living;
  wanted.timers = {{.id = 1, .clock = 1, .left_ns = 5'000'000'000}};
  EXPECT_THAT(texts(plan_process(wanted, living)), ElementsAre("timer 1: make, armed 5.0 s"));
  living.timers = {{.id = 1, .clock = 0}};
  EXPECT_THAT(texts(plan_process(wanted, living)), ElementsAre("timer 1: delete and make again, armed 5.0 s"));
  living.timers.clear();
  living.powers.choose_timer_ids = false;
  ASSERT_THAT(plan_process(wanted, living).refusals, SizeIs(1));
  EXPECT_EQ(plan_process(wanted, living).refusals[0].object, "timer 1");
  living.powers.choose_timer_ids = true;
  wanted.timers[0].clock = -2;
  EXPECT_THAT(plan_process(wanted, living).refusals, SizeIs(1));
}

TEST(PlanProcessTest, TimerWhoseTargetThreadEndedIsMadeAgain) {
  model::Process wanted;
  wanted.timers = {{.id = 1, .clock = 1, .notify = SIGEV_THREAD_ID, .signal = SIGUSR1, .target = {20}}};
  const model::Process living = wanted;
  const std::vector<model::Tid> both{{10}, {20}};
  const std::vector<model::Tid> one{{10}};
  EXPECT_THAT(plan_process(wanted, living, both).operations, IsEmpty());
  EXPECT_THAT(texts(plan_process(wanted, living, one)), ElementsAre("timer 1: delete and make again, off"));
}

TEST(PlanProcessTest, HardLimitsAreRaisedOnlyWithThePower) {
  model::Process wanted;
  model::Process living;
  wanted.limits[RLIMIT_NOFILE] = {.soft = 100, .hard = RLIM_INFINITY};
  living.limits[RLIMIT_NOFILE] = {.soft = 10, .hard = 20};
  EXPECT_THAT(texts(plan_process(wanted, living)), ElementsAre("set RLIMIT_NOFILE: 100/unlimited"));
  EXPECT_THAT(plan_process(wanted, living).refusals, IsEmpty());
  living.powers.raise_hard_limits = false;
  ASSERT_THAT(plan_process(wanted, living).refusals, SizeIs(1));
  EXPECT_EQ(plan_process(wanted, living).refusals[0].object, "limit RLIMIT_NOFILE");
  living.limits[RLIMIT_NOFILE].hard = RLIM_INFINITY;
  EXPECT_THAT(plan_process(wanted, living).refusals, IsEmpty());
}

TEST(PlanProcessTest, DirectoriesAreComparedByIdentity) {
  model::Process wanted;
  model::Process living;
  wanted.cwd = {.path = "/a", .device = 1, .inode = 2};
  living.cwd = {.path = "/renamed", .device = 1, .inode = 2};
  EXPECT_THAT(plan_process(wanted, living).operations, IsEmpty());
  living.cwd.inode = 3;
  EXPECT_EQ(plan_process(wanted, living).differences.at(0).text, "/a -> /renamed");
  living.cwd = wanted.cwd;
  living.root = {.path = "/jail", .device = 1, .inode = 9};
  EXPECT_THAT(texts(plan_process(wanted, living)), ElementsAre("change root to ", "change directory to /a"));
  living.powers.change_root = false;
  EXPECT_THAT(plan_process(wanted, living).refusals, SizeIs(1));
}

TEST(PlanProcessTest, AttributesAreSetBack) {
  model::Process wanted;
  wanted.dumpable = 1;
  wanted.umask = 022;
  model::Process living{.umask = 077,
                        .personality = 0x40000,
                        .dumpable = 0,
                        .oom_score_adj = 500,
                        .child_subreaper = true,
                        .thp_disable = 1};
  const auto plan = plan_process(wanted, living);
  EXPECT_THAT(texts(plan),
              ElementsAre("set umask: 0022", "set personality: 0x0", "set oom_score_adj: 0", "set child subreaper: off",
                          "set transparent huge pages disabled: 0", "set dumpable: 1"));
  EXPECT_THAT(plan.differences, SizeIs(6));
  wanted.dumpable = 2;
  EXPECT_THAT(plan_process(wanted, living).refusals, SizeIs(1));
}

TEST(PlanProcessTest, AnotherIdentityIsRefused) {
  model::Process wanted{.executable = "/bin/a", .executable_inode = 1, .parent = 1, .group = 2, .session = 3};
  model::Process living{.executable = "/bin/b", .executable_inode = 2, .parent = 4, .group = 5, .session = 6};
  const auto plan = plan_process(wanted, living);
  ASSERT_THAT(plan.refusals, SizeIs(1));  // parents, groups and sessions are the tree's
  EXPECT_THAT(plan.refusals.at(0).reason, HasSubstr("/bin/a -> /bin/b"));
}

TEST(PlanProcessTest, AnotherNamespaceIsRefused) {
  model::Process wanted;
  model::Process living;
  living.namespaces[3] = 4026531840;
  ASSERT_THAT(plan_process(wanted, living).refusals, SizeIs(1));
  EXPECT_EQ(plan_process(wanted, living).refusals[0].object, "net namespace");
}

TEST(ParseChildrenTest, ReadsPids) {
  EXPECT_THAT(task::parse_children("12 345 ").value(), ElementsAre(model::Pid{12}, model::Pid{345}));
  EXPECT_THAT(task::parse_children("").value(), IsEmpty());
  for (const char* bad : {"x", "12 -1", "0", "99999999999"}) EXPECT_FALSE(task::parse_children(bad).has_value()) << bad;
}

TEST(SignalNameTest, CoversAllNumbers) {
  EXPECT_EQ(diff::signal_name(SIGTERM), "SIGTERM");
  EXPECT_EQ(diff::signal_name(32), "signal 32");
  EXPECT_EQ(diff::signal_name(34), "SIGRTMIN");
  EXPECT_EQ(diff::signal_name(64), "SIGRTMIN+30");
}

TEST(CompareCredentialsTest, NamesWhatChanged) {
  const model::Credentials wanted{.uids = {1, 1, 1, 1}, .groups = {5, 6}};
  EXPECT_FALSE(diff::compare_credentials(wanted, wanted).has_value());
  const auto object_for = [&](auto change) {
    auto living = wanted;
    change(living);
    const auto refusal = diff::compare_credentials(wanted, living);
    return refusal ? refusal->object : std::string("nothing");
  };
  EXPECT_EQ(object_for([](auto& c) { c.uids[1] = 2; }), "effective user id");
  EXPECT_EQ(object_for([](auto& c) { c.gids[3] = 2; }), "file system group id");
  EXPECT_EQ(object_for([](auto& c) { c.groups = {5}; }), "supplementary groups");
  EXPECT_EQ(object_for([](auto& c) { c.capabilities[3] = 1; }), "bounding capabilities");
  EXPECT_EQ(object_for([](auto& c) { c.no_new_privs = true; }), "no_new_privs");
  EXPECT_EQ(object_for([](auto& c) { c.seccomp_filters = 1; }), "seccomp");
}

}  // namespace
}  // namespace relive
