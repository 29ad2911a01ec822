// Tasks at rest are not looked at; whatever ran, or was touched by others, is.
#include "rollback/rest.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/uio.h>
#include <unistd.h>

#include <memory>

#include "live/child.h"
#include "rollback/engine.h"
#include "task/procfs.h"

namespace relive {
namespace {

using apply::Fate;
using rollback::Engine;
using testing::Child;
using testing::ChildEnd;

// 'x': changes its word; 'v': is it as it was? Else it sleeps.
volatile std::uint64_t word_of_child = 42;
int sleeper(ChildEnd end) {
  end.say('r');
  for (;;) {
    switch (end.hear()) {
      case 'x':
        word_of_child = 43;
        end.say('x');
        break;
      default:
        end.say(word_of_child == 42 ? 'p' : 'f');
    }
  }
}

class RestTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const auto& proof : tracking::prove_trackers())
      if (proof.kind == tracking::TrackerKind::uffd && !proof.works) GTEST_SKIP() << "needs uffd: " << proof.reason;
    auto opened = Engine::open(child_.pid());
    ASSERT_TRUE(opened.has_value()) << opened.error().text();
    engine_ = *std::move(opened);
    asleep();
    const auto taken = engine_->snapshot({.name = "a", .replace = false, .tracker = tracking::TrackerKind::uffd});
    ASSERT_TRUE(taken.has_value()) << taken.error().text();
  }
  // How many tasks were at rest.
  std::uint64_t roll_back() {
    asleep();
    const auto report = engine_->rollback({.name = "a"});
    EXPECT_TRUE(report.has_value()) << report.error().text();
    if (!report) return 99;
    EXPECT_EQ(report->fate, Fate::done) << (report->error ? report->error->text() : "refused");
    return report->at_rest;
  }
  // It has come to where it waits.
  void asleep() const {
    for (;;) {
      const auto stat = task::read_proc(child_.pid(), "stat");
      if (!stat || *task::stat_field(*stat, 3) == "S") return;
      ::sched_yield();
    }
  }

  const Child child_{sleeper};
  std::unique_ptr<Engine> engine_;
};

TEST_F(RestTest, ATaskThatHasNotRunIsAtRestAgainAndAgain) {
  // A sleep that was broken off for a reason of the kernel's own counts as one that ended.
  std::uint64_t at_rest = 0;
  for (int round = 0; round < 10; ++round) at_rest += roll_back();
  EXPECT_GE(at_rest, 8U);
  EXPECT_EQ(child_.ask('v'), 'p');
}

TEST_F(RestTest, OneThatRanIsLookedAt) {
  for (int round = 0; round < 10; ++round) {
    roll_back();
    ASSERT_EQ(child_.ask('x'), 'x');
    EXPECT_EQ(roll_back(), 0U) << round;
    ASSERT_EQ(child_.ask('v'), 'p');
    EXPECT_EQ(roll_back(), 0U) << round;
  }
}

TEST_F(RestTest, MemoryThatOthersWroteGoesBack) {
  roll_back();
  std::uint64_t other = 7;
  const iovec here{.iov_base = &other, .iov_len = sizeof other};
  const iovec there{.iov_base = const_cast<std::uint64_t*>(&word_of_child), .iov_len = sizeof other};
  ASSERT_EQ(::process_vm_writev(child_.pid().value, &here, 1, &there, 1, 0), static_cast<ssize_t>(sizeof other));
  EXPECT_EQ(roll_back(), 0U);
  EXPECT_EQ(child_.ask('v'), 'p');
}

TEST_F(RestTest, WhatOthersSetGoesBack) {
  roll_back();
  cpu_set_t before;
  ASSERT_EQ(::sched_getaffinity(child_.pid().value, sizeof before, &before), 0);
  if (CPU_COUNT(&before) < 2) GTEST_SKIP() << "needs two CPUs: a task is bound to one of them";
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu)
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  ASSERT_EQ(::sched_setaffinity(child_.pid().value, sizeof one, &one), 0);
  EXPECT_EQ(roll_back(), 0U);
  cpu_set_t after;
  ASSERT_EQ(::sched_getaffinity(child_.pid().value, sizeof after, &after), 0);
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
  roll_back();
}

TEST_F(RestTest, AnotherSnapshotIsALookAtAll) {
  roll_back();
  ASSERT_EQ(child_.ask('x'), 'x');
  asleep();
  ASSERT_TRUE(engine_->snapshot({.name = "b", .replace = false, .tracker = {}}).has_value());
  EXPECT_EQ(roll_back(), 0U);
  EXPECT_EQ(child_.ask('v'), 'p');
  ASSERT_TRUE(engine_->rollback({.name = "b"}).has_value());
  EXPECT_EQ(child_.ask('v'), 'f');
}

TEST_F(RestTest, AfterADiffItIsLookedAt) {
  roll_back();
  asleep();
  ASSERT_TRUE(engine_->diff("a").has_value());
  EXPECT_EQ(roll_back(), 0U);
  roll_back();
}

}  // namespace
}  // namespace relive
