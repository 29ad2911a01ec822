// timerfds, signalfds, inotify instances, pidfds: from text, and what makes them the same.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/inotify.h>

#include "capture/descriptors.h"
#include "capture/opened.h"
#include "diff/descriptors.h"
#include "diff/self_contained.h"
#include "tests/unit/texts.h"

namespace relive {
namespace {

using diff::changes;
using diff::must_put_right;
using model::InotifySet;
using model::ProcessHandle;
using model::RemoteFd;
using model::SignalFile;
using model::TimerFile;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::int64_t kSecond = 1'000'000'000;

model::DescriptorTable one_at(int fd, model::FileObject object) {
  return {.descriptors = {{.fd = RemoteFd{fd}}}, .open_files = {{.status_flags = O_RDWR, .object = std::move(object)}}};
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

TEST(InotifyTextTest, WatchesInTheOrderOfTheirNumbers) {
  const auto set = capture::parse_inotify(
      "pos:\t0\nflags:\t00\nmnt_id:\t17\nino:\t1039\n"
      "inotify wd:1e ino:64007 sdev:fe00000 mask:80000002 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 "
      "f_handle:0740060012117e37\n"
      "inotify wd:1 ino:1 sdev:1b mask:4000300 ignored_mask:0 \n");
  ASSERT_TRUE(set.has_value());
  ASSERT_EQ(set->watches.size(), 2U);
  EXPECT_EQ(set->watches[0],
            (model::InotifyWatch{.number = 1, .file = {.device = 0x1b, .inode = 1}, .mask = 0x4000300, .handle = {}}));
  const auto& second = set->watches[1];
  EXPECT_EQ(second.number, 30);
  EXPECT_EQ(second.file, (model::FileIdentity{.device = 0xfe00, .inode = 0x64007}));
  EXPECT_EQ(second.mask, 0x80000002U);
  EXPECT_EQ(second.handle_type, 1);
  ASSERT_EQ(second.handle.size(), 8U);
  EXPECT_EQ(second.handle[7], std::byte{0x37});
  EXPECT_FALSE(capture::parse_inotify("inotify wd:1 ino:5\n").has_value());
}

InotifySet watching(std::vector<model::InotifyWatch> watches, std::uint32_t unread = 0) {
  return {.watches = std::move(watches), .unread = unread, .events = {}};
}
const model::InotifyWatch kOne{.number = 1, .file = {1, 100}, .mask = 2, .handle = {}};
const model::InotifyWatch kOther{.number = 1, .file = {1, 100}, .mask = 4, .handle = {}};
const model::InotifyWatch kThree{.number = 3, .file = {1, 300}, .mask = 2, .handle = {}};

TEST(InotifyPlanTest, WhatIsTooMuchGoesInPlace) {
  EXPECT_TRUE(diff::can_become(watching({kOne}), watching({kOne, kThree})));
  EXPECT_THAT(changes(watching({kOne}), watching({kOne, kThree}, 16)),
              ElementsAre("watch 3 added", "bytes of unread events 0 -> 16"));
  EXPECT_FALSE(must_put_right(watching({kOne}), watching({kOne})));
}
TEST(InotifyPlanTest, WhatIsMissingIsMadeAnew) {
  EXPECT_FALSE(diff::can_become(watching({kOne, kThree}), watching({kThree})));
  EXPECT_FALSE(diff::can_become(watching({kOne}), watching({kOther})));
  EXPECT_THAT(changes(watching({kOne, kThree}), watching({kOther})),
              ElementsAre("watch 1 is for another file or for other events", "watch 3 removed"));
  EXPECT_THAT(texts(diff::plan_descriptors(one_at(5, watching({kOne})), one_at(5, watching({})))),
              ElementsAre("make inotify instance: file 0", "descriptor 5: file 0", "descriptor 5: status flags 02"));
}
TEST(InotifyPlanTest, UnreadEventsAreCausedAgain) {
  InotifySet set = watching({kOne}, 16);
  set.events = {{.number = 1, .mask = IN_MODIFY, .name = {}}};
  EXPECT_THAT(capture::unhandled(one_at(5, set)), IsEmpty());
  EXPECT_FALSE(diff::can_become(set, watching({kOne}, 16)));
  EXPECT_THAT(diff::cannot_make(set).reason, IsEmpty());
  EXPECT_THAT(texts(diff::plan_descriptors(one_at(5, set), one_at(5, watching({kOne}, 16)))),
              ElementsAre("make inotify instance: file 0", "descriptor 5: file 0", "descriptor 5: status flags 02"));
}
TEST(InotifyPlanTest, EventsThatNobodyCanCause) {
  const std::vector<model::InotifyWatch> moves{{.number = 1, .file = {1, 100}, .mask = IN_MOVE, .handle = {}}};
  using Events = std::vector<model::InotifyEvent>;
  const auto why_not = [&](const Events& events) { return model::why_not_queued_again(events, moves); };
  const model::InotifyEvent from{.number = 1, .mask = IN_MOVED_FROM, .cookie = 7, .name = "a"};
  const model::InotifyEvent to{.number = 1, .mask = IN_MOVED_TO, .cookie = 7, .name = "b"};
  EXPECT_EQ(why_not({from, to}), "");
  EXPECT_EQ(why_not({from}), "");
  EXPECT_THAT(why_not({to}), testing::HasSubstr("it may have been read"));
  EXPECT_EQ(model::why_not_queued_again(Events{to}, {}), "");  // it was never told of the other half
  EXPECT_THAT(why_not({{.number = 1, .mask = IN_UNMOUNT, .name = {}}}), testing::HasSubstr("unmounted"));
  const model::InotifyEvent overflow{.number = -1, .mask = IN_Q_OVERFLOW, .name = {}};
  EXPECT_EQ(why_not({from, overflow}), "");
  EXPECT_THAT(why_not({overflow, from}), testing::HasSubstr("were lost"));
  const model::InotifyEvent end{.number = 1, .mask = IN_DELETE_SELF, .name = {}};
  EXPECT_EQ(why_not({end, {.number = 1, .mask = IN_IGNORED, .name = {}}}), "");
  EXPECT_NE(why_not({end}), "");
  for (const char* const name : {"..", "a/b", "."})
    EXPECT_NE(why_not({{.number = 1, .mask = IN_CREATE, .name = name}}), "");
  EXPECT_EQ(model::queued_again(Events{to, from, overflow}, moves), (Events{from, overflow}));
}

TEST(ProcessHandleTextTest, LivingAndEnded) {
  EXPECT_EQ(capture::parse_process_handle("pos:\t0\nPid:\t12831\nNSpid:\t12831\n")->pid, 12831);
  EXPECT_EQ(capture::parse_process_handle("pos:\t0\nPid:\t-1\nNSpid:\t-1\n")->pid, -1);
  EXPECT_FALSE(capture::parse_process_handle("pos:\t0\nNSpid:\t5\n").has_value());
}
TEST(ProcessHandlePlanTest, TheProcessDecides) {
  const ProcessHandle wanted{.pid = 70, .identity = 1000};
  EXPECT_TRUE(diff::can_become(wanted, {.pid = -1, .identity = 1000}));  // it has ended since, and stays so
  EXPECT_FALSE(diff::can_become(wanted, {.pid = 70, .identity = 1001}));
  EXPECT_FALSE(diff::can_become(wanted, {.pid = 70, .identity = 1000, .thread = true}));
  const ProcessHandle own{.pid = 71, .identity = 1000, .thread = true, .own = true};
  EXPECT_FALSE(diff::can_become(own, {.pid = -1, .identity = 1000, .thread = true}));
  EXPECT_TRUE(diff::can_become(own, {.pid = 71, .identity = 1005, .thread = true, .own = true}));
}
TEST(ProcessHandlePlanTest, AnEndedOneCannotBeOpenedAgain) {
  const auto plan = diff::plan_descriptors(one_at(5, ProcessHandle{.pid = -1, .identity = 9}), {});
  ASSERT_EQ(plan.refusals.size(), 1U);
  EXPECT_EQ(plan.refusals[0].reason, "closed since the snapshot, and its process had ended before the snapshot");
}

}  // namespace
}  // namespace relive
