// What is done about named pipes.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "capture/descriptors.h"
#include "diff/descriptors.h"
#include "tests/unit/texts.h"

namespace relive {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct End {
  int fd = 3;
  int mode = O_RDWR;
  std::size_t bytes = 0;
  std::uint32_t capacity = 65536;
  bool outside = false;
  bool awaits = false;
  std::optional<std::size_t> same_as = std::nullopt;
};

model::DescriptorTable table(const std::vector<End>& ends) {
  model::DescriptorTable out;
  for (const End& end : ends) {
    model::NamedPipe pipe{.path = "/p",
                          .identity = {1, 2},
                          .reads = end.mode != O_WRONLY,
                          .writes = end.mode != O_RDONLY,
                          .outside = end.outside,
                          .awaits_writer = end.awaits,
                          .capacity = end.capacity};
    if (pipe.reads) pipe.bytes.resize(end.bytes);
    out.descriptors.push_back({.fd = {end.fd}, .open_file = out.open_files.size()});
    out.open_files.push_back(
        {.status_flags = static_cast<std::uint32_t>(end.mode), .object = std::move(pipe), .same_as = end.same_as});
  }
  return out;
}
std::vector<std::string> planned(const std::vector<End>& wanted, const std::vector<End>& living) {
  return texts(diff::plan_descriptors(table(wanted), table(living)));
}

constexpr const char* kRefill = "named pipe 3: put its unread bytes and its capacity back";

TEST(NamedPipePlanTest, OneThatIsAsItWasIsLeftAlone) {
  EXPECT_THAT(planned({{.bytes = 5}}, {{.bytes = 5, .same_as = 0}}), IsEmpty());
  EXPECT_THAT(planned({{.mode = O_WRONLY}}, {{.mode = O_WRONLY, .same_as = 0}}), IsEmpty());
  EXPECT_THAT(planned({{.mode = O_RDONLY, .awaits = true}}, {{.mode = O_RDONLY, .awaits = true, .same_as = 0}}),
              IsEmpty());
}

TEST(NamedPipePlanTest, BytesAndCapacityArePutBackOnceAPipe) {
  const std::vector<End> wanted{
      {.mode = O_RDONLY, .bytes = 5}, {.fd = 4, .mode = O_RDONLY, .bytes = 5}, {.fd = 5, .mode = O_WRONLY}};
  std::vector<End> living = wanted;
  for (std::size_t at = 0; at < living.size(); ++at) {
    living[at].bytes = 7;
    living[at].same_as = at;
  }
  EXPECT_THAT(planned(wanted, living), ElementsAre(kRefill));
  EXPECT_THAT(planned({{}}, {{.capacity = 4096, .same_as = 0}}), ElementsAre(kRefill));
}

TEST(NamedPipePlanTest, WhatIsInOneThatLeadsOutStays) {
  const auto plan = diff::plan_descriptors(table({{.mode = O_RDONLY, .outside = true}}),
                                           table({{.mode = O_RDONLY, .bytes = 3, .same_as = 0}}));
  EXPECT_THAT(plan.operations, IsEmpty());
  EXPECT_THAT(plan.notes, ElementsAre(HasSubstr("kept with what is in it")));
}

TEST(NamedPipePlanTest, AClosedOneIsOpenedAgainAndFilled) {
  EXPECT_THAT(planned({{.bytes = 5}}, {}), ElementsAre("open the named pipe again: file 0", "descriptor 3: file 0",
                                                       "descriptor 3: status flags 02", kRefill));
  const auto outside = planned({{.mode = O_RDONLY, .outside = true}}, {});
  EXPECT_THAT(outside, ::testing::Not(::testing::Contains(kRefill)));
}

TEST(NamedPipePlanTest, AReaderThatAwaitedItsWriterIsOpenedAgain) {
  EXPECT_THAT(planned({{.mode = O_RDONLY, .awaits = true}}, {{.mode = O_RDONLY, .same_as = 0}}),
              ::testing::Contains("open the named pipe again: file 0"));
  const auto plan = diff::plan_descriptors(table({{.mode = O_RDONLY, .awaits = true}}),
                                           table({{.mode = O_RDONLY, .same_as = 0}, {.fd = 4, .mode = O_WRONLY}}));
  EXPECT_THAT(plan.notes, ElementsAre(HasSubstr("poll(2)")));
}

TEST(NamedPipePlanTest, BytesThatNobodyCanReadAreRefusedAtTheSnapshot) {
  auto wanted = table({{.mode = O_WRONLY}});
  EXPECT_THAT(capture::unhandled(wanted), IsEmpty());
  std::get<model::NamedPipe>(wanted.open_files[0].object).unseen = 9;
  EXPECT_THAT(capture::unhandled(wanted), ElementsAre(HasSubstr("9 bytes are unread")));
}

}  // namespace
}  // namespace relive
