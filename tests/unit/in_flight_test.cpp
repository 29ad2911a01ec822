// Open files that travel with unread messages.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "capture/descriptors.h"
#include "diff/descriptors.h"
#include "tests/unit/texts.h"

namespace relive {
namespace {

using model::DescriptorTable;
using model::OpenFile;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr std::size_t kFile = 2;

OpenFile socket(std::uint64_t inode, std::uint64_t peer, std::vector<model::Message> unread) {
  model::Socket out;
  out.inode = inode;
  out.peer_inode = peer;
  out.family = AF_UNIX;
  out.type = SOCK_STREAM;
  out.state = model::SocketState::connected;
  out.unread = std::move(unread);
  return {.status_flags = O_RDWR, .object = out};
}
OpenFile regular(std::uint64_t inode) {
  return {.status_flags = O_RDWR, .object = model::RegularFile{.path = "/f", .identity = {1, inode}, .position = 4}};
}

// A pair at 5 and 6; at 5 one byte waits, with `file`: open file 2, in flight only.
DescriptorTable table(OpenFile file) {
  const model::Message message{.bytes = {std::byte{1}}, .from = {}, .files = {kFile}};
  return {.descriptors = {{.fd = {5}, .open_file = 0}, {.fd = {6}, .open_file = 1}},
          .open_files = {socket(1, 2, {message}), socket(2, 1, {}), std::move(file)}};
}
// The same later: what is which is known.
DescriptorTable living(DescriptorTable of) {
  for (std::size_t at = 0; at < of.open_files.size(); ++at) of.open_files[at].same_as = at;
  return of;
}

constexpr const char* kAgain = "socket of file 0: put its unread messages back";

TEST(InFlightTest, AMessageWithItsFileIsLeftAlone) {
  EXPECT_THAT(texts(diff::plan_descriptors(table(regular(1)), living(table(regular(1))))), IsEmpty());
}

TEST(InFlightTest, TheSameBytesWithAnotherFileAreAnotherMessage) {
  auto other = living(table({.object = model::UnhandledFile{"another"}}));
  other.open_files[kFile].same_as.reset();
  EXPECT_THAT(texts(diff::plan_descriptors(table(regular(1)), other)),
              ElementsAre("socket 5: drop its unread messages", kAgain));
}

TEST(InFlightTest, AFileThatWasReceivedIsSentAgain) {
  auto received = living(table(regular(1)));
  std::get<model::Socket>(received.open_files[0].object).unread.clear();
  received.descriptors.push_back({.fd = {9}, .open_file = kFile});
  EXPECT_THAT(texts(diff::plan_descriptors(table(regular(1)), received)),
              ElementsAre("close descriptor 9", "socket 5: drop its unread messages", kAgain));
}

TEST(InFlightTest, APairIsMadeAnewAndItsFilesAreSentInTheCommit) {
  EXPECT_THAT(texts(diff::plan_descriptors(table(regular(1)), {})), Contains(kAgain));
  auto shut = table(regular(1));
  std::get<model::Socket>(shut.open_files[0].object).shutdown = 1;
  EXPECT_THAT(diff::plan_descriptors(shut, {}).refusals, Not(IsEmpty()));
}

TEST(InFlightTest, AFileThatIsNowhereElseMustBeOneThatMayBeHeld) {
  EXPECT_THAT(capture::unhandled(table(regular(1))), IsEmpty());
  EXPECT_THAT(capture::unhandled(table({.object = model::EventCounter{}})), ElementsAre(HasSubstr("under no number")));
  auto numbered = table({.object = model::EventCounter{}});
  numbered.descriptors.push_back({.fd = {7}, .open_file = kFile});
  EXPECT_THAT(capture::unhandled(numbered), IsEmpty());
}

// A living file that is in flight only cannot be moved to a number.
TEST(InFlightTest, AFileUnderANumberIsTakenFromTheHoldsWhereItIsInFlightOnly) {
  auto wanted = table(regular(1));
  wanted.descriptors.push_back({.fd = {9}, .open_file = kFile});
  EXPECT_THAT(texts(diff::plan_descriptors(wanted, living(table(regular(1))))),
              Contains("give the task the held file 2"));
}

}  // namespace
}  // namespace relive
