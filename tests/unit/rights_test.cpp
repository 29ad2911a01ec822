#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/securebits.h>

#include "diff/rights.h"

namespace relive::diff {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::uint64_t kAll = 0x1ffffffffff;

model::Thread root() {
  model::Thread thread;
  thread.credentials.capabilities = {0, kAll, kAll, kAll, 0};
  return thread;
}

model::Thread user(std::uint32_t id) {
  model::Thread thread = root();
  thread.credentials.uids = thread.credentials.gids = {id, id, id, id};
  thread.credentials.groups = {id};
  thread.credentials.capabilities = {0, 0, 0, kAll, 0};
  return thread;
}

std::string refused(const model::Thread& wanted, const model::Thread& living) {
  const RightsPlan plan = plan_rights(wanted, living);
  EXPECT_TRUE(!plan.refusal || plan.steps.empty());
  return plan.refusal ? plan.refusal->object : std::string();
}

TEST(RightsTest, EqualRightsNeedNothing) {
  EXPECT_THAT(plan_rights(root(), root()).steps, IsEmpty());
  EXPECT_EQ(refused(root(), root()), "");
}

TEST(RightsTest, RootBecomesAUser) {
  const RightsPlan plan = plan_rights(user(33), root());
  EXPECT_FALSE(plan.refusal);
  const SetCapabilities all{.permitted = kAll, .effective = kAll, .inheritable = 0};
  EXPECT_THAT(plan.steps, ElementsAre(RightsStep(all), RightsStep(SetGroups{{33}}),
                                      RightsStep(SetIds{.groups = true, .ids = {33, 33, 33, 33}}),
                                      RightsStep(KeepCapabilities{true}),
                                      RightsStep(SetIds{.groups = false, .ids = {33, 33, 33, 33}}), RightsStep(all),
                                      RightsStep(KeepCapabilities{false}), RightsStep(SetCapabilities{})));
}

TEST(RightsTest, WhatCannotBeHadIsRefusedByName) {
  EXPECT_EQ(refused(root(), user(33)), "permitted capabilities");
  EXPECT_EQ(refused(user(34), user(33)), "user ids");
  model::Thread confined = root();
  confined.credentials.capabilities[3] = 0;
  EXPECT_EQ(refused(root(), confined), "bounding capabilities");
  model::Thread filtered = root();
  filtered.credentials.seccomp_mode = 2;
  filtered.credentials.seccomp_filters = 1;
  EXPECT_EQ(refused(filtered, root()), "seccomp filters");
  model::Thread meek = root();
  meek.credentials.no_new_privs = true;
  EXPECT_EQ(refused(root(), meek), "no_new_privs");
  EXPECT_EQ(refused(meek, root()), "");
  model::Thread locked = root();
  locked.secure_bits = 1U << SECURE_NOROOT_LOCKED;
  EXPECT_EQ(refused(root(), locked), "secure bits");
  model::Thread strict = root();
  strict.secure_bits = 1U << SECURE_NOROOT;
  EXPECT_EQ(refused(strict, root()), "");
}

TEST(RightsTest, AUserMayChangeAmongItsOwnIds) {
  model::Thread living = user(33);
  living.credentials.uids = {33, 33, 34, 33};
  model::Thread wanted = user(33);
  wanted.credentials.uids = {34, 34, 34, 34};
  EXPECT_EQ(refused(wanted, living), "");
}

TEST(RightsTest, ExecutionGivesRootAllAndAUserWhatIsAmbient) {
  model::Credentials rights = user(33).credentials;
  rights.capabilities = {1, kAll, kAll, kAll, 1};
  rights.uids = {33, 34, 35, 36};
  const model::Credentials after = after_execve(rights, 0);
  EXPECT_THAT(after.capabilities, ElementsAre(1, 1, 1, kAll, 1));
  EXPECT_THAT(after.uids, ElementsAre(33, 34, 34, 34));
  model::Credentials confined = root().credentials;
  confined.capabilities = {0, 0, 0, kAll & ~1ULL, 0};
  EXPECT_THAT(after_execve(confined, 0).capabilities, ElementsAre(0, kAll & ~1ULL, kAll & ~1ULL, kAll & ~1ULL, 0));
  EXPECT_THAT(after_execve(confined, 1U << SECURE_NOROOT).capabilities, ElementsAre(0, 0, 0, kAll & ~1ULL, 0));
}

}  // namespace
}  // namespace relive::diff
