#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "capture/threads.h"
#include "diff/threads.h"
#include "parasite/frame.h"

namespace relive {
namespace {

model::Thread thread(pid_t tid, const char* name) {
  model::Thread made;
  made.tid = model::Tid{tid};
  made.name = name;
  return made;
}

TEST(RestartedCallTest, IsToldByTheInstructionBefore) {
  std::array<std::byte, 16> code{};
  EXPECT_EQ(capture::restarted_call(code), -1);
  code[11] = std::byte{0xb8};
  code[12] = std::byte{230};
  EXPECT_EQ(capture::restarted_call(code), 230);
  code[12] = std::byte{231};  // exit_group leaves no restart block
  EXPECT_EQ(capture::restarted_call(code), -1);
  EXPECT_EQ(capture::restarted_call({}), -1);
}

TEST(ReissueTest, BacksUpOverTheSystemCallAndNeverAnswersEintr) {
  user_regs_struct registers{};
  registers.rip = 0x1002;
  registers.orig_rax = 35;
  for (const int error : {-512, -513, -514, -516}) {
    registers.rax = static_cast<std::uint64_t>(error);
    const user_regs_struct again = parasite::reissue_system_call(registers);
    EXPECT_EQ(again.rip, 0x1000U);
    EXPECT_EQ(again.rax, 35U);
    EXPECT_EQ(again.orig_rax, ~0ULL);
  }
  registers.rax = 7;  // a call that has its result
  EXPECT_EQ(parasite::reissue_system_call(registers).rip, 0x1002U);
}

TEST(ThreadPlanTest, TellsEndedBornAndChanged) {
  const std::vector<model::Thread> wanted = {thread(10, "main"), thread(11, "a"), thread(12, "b")};
  std::vector<model::Thread> living = {thread(10, "main"), thread(12, "b"), thread(13, "c")};
  living[1].signal_mask = 4;
  const diff::ThreadPlan plan = diff::plan_threads(wanted, living);
  EXPECT_EQ(plan.missing, std::vector{model::Tid{11}});
  EXPECT_EQ(plan.surplus, std::vector{model::Tid{13}});
  EXPECT_EQ(plan.changed, 3U);
  EXPECT_TRUE(plan.refusals.empty());
  EXPECT_EQ(plan.differences.size(), 3U);
}

TEST(ThreadPlanTest, RefusesWhenTheLeaderIsGone) {
  const diff::ThreadPlan plan = diff::plan_threads({thread(10, "main"), thread(11, "a")}, {thread(11, "a")});
  ASSERT_EQ(plan.refusals.size(), 1U);
  EXPECT_NE(plan.refusals[0].reason.find("leader"), std::string::npos);
}

}  // namespace
}  // namespace relive
