#include "rollback/protocol.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

namespace relive::rollback {
namespace {

TEST(Protocol, RequestsComeBackAsTheyWere) {
  const Request request{{{42}, 4711}, "fail:3", RollbackOptions{"before", "/image", true, OnFailure::kill}};
  const auto back = decode_request(encode(request));
  ASSERT_TRUE(back.has_value()) << back.error().text();
  EXPECT_EQ(back->key, request.key);
  EXPECT_EQ(back->fault, "fail:3");
  const auto& options = std::get<RollbackOptions>(back->command);
  EXPECT_EQ(options.name, "before");
  EXPECT_TRUE(options.dry_run);
  EXPECT_EQ(options.on_failure, OnFailure::kill);
}

TEST(Protocol, AnErrorComesBackWhole) {
  const Error error{ErrorKind::busy, "task 7 is traced", 16, "detach the debugger", {"freeze", "snapshot"}};
  const auto back = decode_response(encode(Result<Answer>(std::unexpected(error))));
  ASSERT_FALSE(back.has_value());
  EXPECT_EQ(back.error().kind, error.kind);
  EXPECT_EQ(back.error().text(), error.text());
  EXPECT_EQ(back.error().errno_value, 16);
}

TEST(Protocol, ARollbackReportComesBackWhole) {
  RollbackReport report;
  report.fate = apply::Fate::stopped;
  report.pages = 12;
  report.at_rest = 3;
  report.stages = {{"freeze", 100}, {"commit", 7}};
  report.notes = {"a\xff note that is not UTF-8"};
  report.refusals = {{"descriptor 3", "no", "do"}};
  report.error = Error{ErrorKind::system, "mmap", 12, "", {}};
  const auto back = decode_response(encode(Result<Answer>(report)));
  ASSERT_TRUE(back.has_value()) << back.error().text();
  const auto& got = std::get<RollbackReport>(*back);
  EXPECT_EQ(got.fate, apply::Fate::stopped);
  EXPECT_EQ(got.pages, 12U);
  EXPECT_EQ(got.at_rest, 3U);
  EXPECT_EQ(got.stages.at(1).name, "commit");
  EXPECT_EQ(got.notes, report.notes);
  EXPECT_EQ(got.refusals, report.refusals);
  ASSERT_TRUE(got.error.has_value());
  EXPECT_EQ(got.error->errno_value, 12);
}

TEST(Protocol, MalformedBytesAreAnError) {
  const std::string good = encode(Request{{{42}, 4711}, "", DiffOptions{"before"}});
  EXPECT_FALSE(decode_request("").has_value());
  EXPECT_FALSE(decode_response("").has_value());
  EXPECT_FALSE(decode_request("\xff\xff\xff\xff").has_value());
  for (std::size_t length = 0; length < good.size(); ++length) (void)decode_request(good.substr(0, length));
  for (std::size_t at = 0; at < good.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << bit));
      (void)decode_request(bad);
      (void)decode_response(bad);
    }
}

class Channel : public ::testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    here_.reset(ends[0]);
    there_.reset(ends[1]);
  }
  UniqueFd here_;
  UniqueFd there_;
};

TEST_F(Channel, AFrameArrives) {
  ASSERT_TRUE(send_frame(here_.get(), "hello").has_value());
  EXPECT_EQ(receive_frame(there_.get(), 5).value(), "hello");
}

TEST_F(Channel, AFrameAboveTheLimitIsRefused) {
  ASSERT_TRUE(send_frame(here_.get(), "hello").has_value());
  EXPECT_FALSE(receive_frame(there_.get(), 4).has_value());
}

TEST_F(Channel, HangingUpIsTold) {
  here_.reset();
  const auto nothing = receive_frame(there_.get(), 5);
  ASSERT_FALSE(nothing.has_value());
  EXPECT_EQ(nothing.error().kind, ErrorKind::not_found);
}

TEST_F(Channel, ABrokenFrameIsAnError) {
  ASSERT_EQ(::write(here_.get(), "rlv1\x05\0\0\0he", 10), 10);
  here_.reset();
  EXPECT_FALSE(receive_frame(there_.get(), 5).has_value());
}

TEST(TaskKey, ItsFileNameIsReadBack) {
  const TaskKey key{{42}, 4711};
  EXPECT_EQ(key.stem(), "42-4711");
  EXPECT_EQ(TaskKey::parse("42-4711"), key);
  for (const char* bad : {"", "42", "42-", "-42", "42-x", "x-42", "0-1", "42-4711x"})
    EXPECT_FALSE(TaskKey::parse(bad).has_value()) << bad;
}

}  // namespace
}  // namespace relive::rollback
