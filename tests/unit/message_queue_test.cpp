// Message queues, and what of System V's objects can be known.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fcntl.h>

#include "capture/opened.h"
#include "capture/process.h"
#include "diff/descriptors.h"
#include "diff/memory.h"
#include "diff/process.h"
#include "tests/unit/texts.h"

namespace relive {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

model::DescriptorTable table(bool notifies, bool living) {
  model::DescriptorTable out;
  model::OpenFile file{
      .status_flags = O_RDWR,
      .object = model::MessageQueue{.path = "/q", .identity = {9, 1}, .position = 0, .notifies = notifies}};
  if (living) file.same_as = 0;
  out.descriptors.push_back({model::RemoteFd{4}, false, 0});
  out.open_files.push_back(std::move(file));
  return out;
}

TEST(MessageQueueTest, TheTaskThatIsToldIsRead) {
  EXPECT_EQ(capture::parse_notified_task("QSIZE:0          NOTIFY:0     SIGNO:10    NOTIFY_PID:26341 \n"), 26341U);
  EXPECT_EQ(capture::parse_notified_task("QSIZE:129        NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \n"), 0U);
  EXPECT_EQ(capture::parse_notified_task("nothing"), 0U);
}

TEST(MessageQueueTest, ANotificationSinceIsTakenBackAndAClosedOneIsTakenFromTheHolds) {
  EXPECT_THAT(texts(diff::plan_descriptors(table(false, false), table(false, true))), IsEmpty());
  EXPECT_THAT(texts(diff::plan_descriptors(table(false, false), table(true, true))),
              ElementsAre("message queue 4: put right what it holds"));
  EXPECT_THAT(texts(diff::plan_descriptors(table(false, false), {})).front(), "give the task the held file 0");
}

TEST(MessageQueueTest, AnAioContextMadeSinceIsRefused) {
  model::Mapping ring;
  ring.range = {0x10000, 0x11000};
  ring.name = "/[aio] (deleted)";
  ring.source = model::MappingSource::device;
  ring.shared = true;
  model::Memory living;
  living.mappings.push_back(ring);
  EXPECT_THAT(diff::plan_memory({}, living).refusals, SizeIs(1));
}

}  // namespace
}  // namespace relive
