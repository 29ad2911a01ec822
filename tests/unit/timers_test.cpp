// timerfds and signalfds: from text, and what makes them the same.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "capture/opened.h"
#include "diff/descriptors.h"
#include "diff/self_contained.h"

namespace relive {
namespace {

using diff::changes;
using diff::must_put_right;
using model::RemoteFd;
using model::SignalFile;
using model::TimerFile;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::int64_t kSecond = 1'000'000'000;

model::DescriptorTable one_at(int fd, model::FileObject object) {
  return {.descriptors = {{.fd = RemoteFd{fd}}}, .open_files = {{.status_flags = O_RDWR, .object = std::move(object)}}};
}
std::vector<std::string> texts(const diff::DescriptorPlan& plan) {
  std::vector<std::string> out;
  for (const auto& operation : plan.operations) out.push_back(diff::text(operation));
  return out;
}

TEST(TimerTextTest, EveryFieldIsRead) {
  const auto timer = capture::parse_timer(
      "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t2078\nclockid: 7\nticks: 3\nsettime flags: 03\n"
      "it_value: (4, 999838530)\nit_interval: (1, 5)\n");
  ASSERT_TRUE(timer.has_value());
  EXPECT_EQ(
      *timer,
      (TimerFile{
          .clock = 7, .settime_flags = 3, .left_ns = 4 * kSecond + 999838530, .interval_ns = kSecond + 5, .ticks = 3}));
}

TEST(TimerTextTest, WhatIsMissingIsAnError) {
  EXPECT_FALSE(capture::parse_timer("").has_value());
  EXPECT_FALSE(capture::parse_timer("clockid: 0\nticks: 0\nsettime flags: 00\nit_value: 5\n").has_value());
  EXPECT_FALSE(capture::parse_signal_file("pos:\t0\n").has_value());
}

TEST(TimerTextTest, TheMaskOfASignalFile) {
  const auto file = capture::parse_signal_file("pos:\t0\nflags:\t02\nsigmask:\tfffffffe00000200\n");
  ASSERT_TRUE(file.has_value());
  EXPECT_EQ(file->mask, 0xfffffffe00000200U);
}

TEST(TimerPlanTest, RunningDownIsNoDifferenceButIsPutRight) {
  const TimerFile wanted{.clock = 1, .left_ns = 10 * kSecond};
  const TimerFile living{.clock = 1, .left_ns = 3 * kSecond};
  EXPECT_THAT(changes(wanted, living), IsEmpty());
  EXPECT_TRUE(must_put_right(wanted, living));
  const auto plan = diff::plan_descriptors(one_at(5, wanted), one_at(5, living));
  EXPECT_THAT(plan.differences, IsEmpty());
  EXPECT_THAT(texts(plan), ElementsAre("timerfd 5: put right what it holds"));
}

TEST(TimerPlanTest, ADisarmedTimerIsLeftAlone) {
  EXPECT_FALSE(must_put_right(TimerFile{.clock = 1}, TimerFile{.clock = 1}));
}

TEST(TimerPlanTest, WhatDiffersIsTold) {
  const TimerFile wanted{.clock = 1, .left_ns = 10 * kSecond, .ticks = 1};
  EXPECT_THAT(changes(wanted, {.clock = 1, .settime_flags = 1}),
              ElementsAre("armed 10.0 s -> disarmed", "set with flags 0 -> 01", "unread expirations 1 -> 0"));
  EXPECT_THAT(changes(wanted, {.clock = 1, .left_ns = 100 * kSecond, .ticks = 1}),
              ElementsAre("armed 10.0 s -> armed 100.0 s"));
}

TEST(TimerPlanTest, AnotherClockIsAnotherTimer) {
  const auto plan = diff::plan_descriptors(one_at(5, TimerFile{.clock = 1}), one_at(5, TimerFile{.clock = 0}));
  EXPECT_THAT(texts(plan),
              ElementsAre("make timerfd: file 0", "descriptor 5: file 0", "descriptor 5: status flags 02"));
}

TEST(SignalFilePlanTest, AMaskIsSetInPlace) {
  const auto plan = diff::plan_descriptors(one_at(5, SignalFile{.mask = 6}), one_at(5, SignalFile{.mask = 0x200}));
  ASSERT_EQ(plan.differences.size(), 1U);
  EXPECT_EQ(plan.differences[0].text, "mask 6 -> 200");
  EXPECT_THAT(texts(plan), ElementsAre("signalfd 5: put right what it holds"));
  EXPECT_THAT(texts(diff::plan_descriptors(one_at(5, SignalFile{.mask = 6}), one_at(5, SignalFile{.mask = 6}))),
              IsEmpty());
}

}  // namespace
}  // namespace relive
