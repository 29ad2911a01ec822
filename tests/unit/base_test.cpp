#include <gtest/gtest.h>

#include "base/fault.h"
#include "base/page_range.h"
#include "base/result.h"

namespace relive {
namespace {

Result<int> half(int value) {
  if (value % 2 != 0) return fail(ErrorKind::usage, "odd");
  return value / 2;
}

Result<int> quarter(int value) { return RELIVE_TRY(half(RELIVE_TRY(half(value)))); }

TEST(ResultTest, TryPassesValuesAndErrorsOn) {
  EXPECT_EQ(quarter(12).value(), 3);
  ASSERT_FALSE(quarter(6).has_value());
  EXPECT_EQ(quarter(6).error().kind, ErrorKind::usage);
}

TEST(ResultTest, TextTellsTheWholeStory) {
  Result<void> inner = fail_errno("open", "/nowhere", ENOENT);
  const auto outer = with_context(with_context(inner, "reading maps"), "freezing 12");
  EXPECT_EQ(outer.error().text(), "freezing 12: reading maps: open /nowhere: No such file or directory");
}

TEST(FaultTest, FailsExactlyThePointAskedFor) {
  arm_faults(FaultPlan::parse("fail:1").value());
  EXPECT_TRUE(fault_point("a").has_value());
  EXPECT_FALSE(fault_point("b").has_value());
  EXPECT_TRUE(fault_point("c").has_value());
  EXPECT_EQ(faults_passed(), 3U);
  arm_faults({});
  EXPECT_FALSE(FaultPlan::parse("fail:").has_value());
  EXPECT_FALSE(FaultPlan::parse("explode:1").has_value());
}

TEST(PageRangeTest, IntersectionOfDisjointRangesIsEmpty) {
  EXPECT_TRUE((AddressRange{0, 10}.intersect({10, 20}).empty()));
  EXPECT_EQ((AddressRange{0, 15}.intersect({10, 20})), (AddressRange{10, 15}));
}

}  // namespace
}  // namespace relive
