#include "capture/credentials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace relive {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string kStatus =
    "Name:\tcat\nUmask:\t0022\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t256\nGroups:\t10 20 30 \nNStgid:\t12\n"
    "CapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\nCapEff:\t000001fffeffffff\nCapBnd:\t000001fffeffffff\n"
    "CapAmb:\t0000000000000001\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";

TEST(ParseCredentialsTest, ReadsAStatusFile) {
  const auto credentials = capture::parse_credentials(kStatus);
  ASSERT_TRUE(credentials.has_value()) << credentials.error().text();
  EXPECT_THAT(credentials->uids, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(credentials->gids, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(credentials->groups, ElementsAre(10, 20, 30));
  EXPECT_THAT(credentials->capabilities, ElementsAre(0, 0x1fffeffffff, 0x1fffeffffff, 0x1fffeffffff, 1));
  EXPECT_TRUE(credentials->no_new_privs);
  EXPECT_EQ(credentials->seccomp_mode, 2U);
  EXPECT_EQ(credentials->seccomp_filters, 3U);
}

TEST(ParseCredentialsTest, NamesTheLineItCannotRead) {
  const auto without = [](std::string_view from, std::string_view to) {
    std::string text = kStatus;
    return text.replace(text.find(from), from.size(), to);
  };
  const auto error = [](const std::string& text) { return capture::parse_credentials(text).error().text(); };
  EXPECT_THAT(error(without("Uid:\t1\t2\t3\t4\n", "")), HasSubstr("Uid"));
  EXPECT_THAT(error(without("Gid:\t5\t6\t7\t8", "Gid:\t5\t6\t7")), HasSubstr("Gid"));
  EXPECT_THAT(error(without("10 20", "10 x")), HasSubstr("Groups"));
  EXPECT_THAT(error(without("CapBnd:\t0", "CapBnd:\tg")), HasSubstr("CapBnd"));
  EXPECT_THAT(error(without("NoNewPrivs:\t1", "NoNewPrivs:\t")), HasSubstr("NoNewPrivs"));
  EXPECT_TRUE(capture::parse_credentials(without("Seccomp_filters:\t3\n", "")).has_value());
}

}  // namespace
}  // namespace relive
