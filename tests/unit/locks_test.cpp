#include "diff/locks.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <random>

#include "capture/locks.h"
#include "diff/descriptors.h"
#include "diff/table_locks.h"
#include "tests/unit/texts.h"

namespace relive {
namespace {

using diff::LockStep;
using model::FileLock;
using model::LockKind;
using model::LockMode;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

FileLock lock(LockKind kind, LockMode mode, std::uint64_t first = 0, std::uint64_t last = model::kLockToEnd) {
  return {.kind = kind, .mode = mode, .first = first, .last = last, .file = {}};
}

// --- the kernel in miniature: a mode for each of a few bytes; the last one stands for all that follow
constexpr std::size_t kBytes = 12;
using Bytes = std::array<LockMode, kBytes>;

void set(Bytes& bytes, const LockStep& step) {
  for (std::size_t at = 0; at < kBytes; ++at)
    if (step.first <= at && at <= step.last) bytes[at] = step.mode;
}
Bytes bytes_of(const std::vector<FileLock>& locks) {
  Bytes bytes{};
  for (const FileLock& one : locks) set(bytes, {.mode = one.mode, .first = one.first, .last = one.last});
  return bytes;
}
std::vector<FileLock> random_locks(std::mt19937& random) {
  const auto below = [&](unsigned limit) { return std::uniform_int_distribution<unsigned>(0, limit - 1)(random); };
  std::vector<FileLock> locks;
  for (std::uint64_t at = below(3); at < kBytes; at += 1 + below(3)) {
    std::uint64_t last = at + below(4);
    if (last + 1 >= kBytes) last = model::kLockToEnd;
    if (below(3) != 0)
      locks.push_back(lock(LockKind::posix, below(2) == 0 ? LockMode::read : LockMode::write, at, last));
    if (last == model::kLockToEnd) break;
    at = last;
  }
  return locks;
}

TEST(LockListTest, TellsWhichFilesHaveLocks) {
  const auto inodes = capture::locked_inodes(
      "1: POSIX  ADVISORY  WRITE 12 00:2a:77 0 EOF\n1: -> FLOCK  ADVISORY  READ 13 fe:00:78 0 EOF\n");
  ASSERT_TRUE(inodes.has_value());
  EXPECT_EQ(*inodes, (std::set<std::uint64_t>{77, 78}));
  EXPECT_TRUE(capture::locked_inodes("").has_value());
  EXPECT_FALSE(capture::locked_inodes("something new").has_value()) << "who knows what it says";
}

TEST(LockPlanTest, AnyLocksToAnyOthers) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    const auto wanted = random_locks(random);
    const auto living = random_locks(random);
    const Bytes want = bytes_of(wanted);
    const Bytes before = bytes_of(living);
    const auto plan = diff::plan_locks(LockKind::posix, wanted, living);
    Bytes now = before;
    for (const LockStep& step : plan.take) set(now, step);
    for (std::size_t at = 0; at < kBytes; ++at) {
      EXPECT_GE(now[at], before[at]) << "let go of before commit";
      EXPECT_GE(now[at], want[at]) << "to be taken in commit";
    }
    Bytes undone = now;
    for (const LockStep& step : plan.back) set(undone, step);
    EXPECT_EQ(undone, before);
    for (const LockStep& step : plan.ease) set(now, step);
    EXPECT_EQ(now, want);
    Bytes anything = before;
    for (const LockStep& step : diff::state_locks(LockKind::posix, wanted)) set(anything, step);
    EXPECT_EQ(anything, want);
    EXPECT_EQ(diff::lock_changes(wanted, living).empty(), wanted == living);
  }
}

TEST(LockPlanTest, NeighboursAreOneStep) {
  const auto plan = diff::plan_locks(LockKind::posix, {}, {lock(LockKind::posix, LockMode::read, 0, 9)});
  EXPECT_THAT(plan.take, IsEmpty());
  EXPECT_THAT(plan.ease, ElementsAre(LockStep{.first = 0, .last = 9}));
  EXPECT_THAT(diff::plan_locks(LockKind::flock, {}, {lock(LockKind::posix, LockMode::read)}).ease, IsEmpty());
}

TEST(LockPlanTest, AWeakenedLeaseIsPreparedToo) {
  const auto plan = diff::plan_locks(LockKind::lease, {lock(LockKind::lease, LockMode::read)},
                                     {lock(LockKind::lease, LockMode::write)});
  EXPECT_THAT(plan.take, SizeIs(1));
  EXPECT_THAT(plan.ease, IsEmpty());
}

// --- tables
model::OpenFile file(std::uint64_t inode, std::vector<FileLock> locks = {}, std::optional<std::size_t> same_as = {}) {
  return {.status_flags = O_RDWR,
          .locks = std::move(locks),
          .object = model::RegularFile{.path = "/f", .identity = {1, inode}},
          .same_as = same_as};
}

TEST(TableLocksTest, ASecondDescriptorThatIsClosedCostsThePosixLocksThatAreTakenAgain) {
  const auto locks = std::vector{lock(LockKind::posix, LockMode::write, 0, 9)};
  model::DescriptorTable wanted{.descriptors = {{.fd = {3}}}, .open_files = {file(1, locks)}};
  model::DescriptorTable living{.descriptors = {{.fd = {3}}, {.fd = {4}, .open_file = 1}},
                                .open_files = {file(1, locks, 0), file(1)}};
  const auto plan = diff::plan_descriptors(wanted, living);
  EXPECT_THAT(texts(plan), ElementsAre("close descriptor 4", "descriptor 3: take write lock on bytes 0 to 9 (POSIX)",
                                       "descriptor 3: no lock on bytes from 10 on (POSIX)"));
  EXPECT_THAT(texts(plan.last), ElementsAre("descriptor 3: take write lock on bytes 0 to 9 (POSIX)"));
  EXPECT_THAT(plan.record, SizeIs(1));
  EXPECT_THAT(texts(diff::plan_descriptors(wanted, {.descriptors = {{.fd = {3}}}, .open_files = {file(1, locks, 0)}})),
              IsEmpty());
}

TEST(TableLocksTest, PosixLocksThatAreGoneAreTakenThroughTheLivingDescriptor) {
  model::DescriptorTable wanted{.descriptors = {{.fd = {3}}},
                                .open_files = {file(1, {lock(LockKind::posix, LockMode::write, 0, 9)})}};
  const auto plan = diff::plan_descriptors(wanted, {.descriptors = {{.fd = {3}}}, .open_files = {file(1, {}, 0)}});
  EXPECT_THAT(texts(plan), ElementsAre("file 0: take write lock on bytes 0 to 9 (POSIX)"));
}

TEST(TableLocksTest, AFileWithAFlockIsOpenedAnewAndOneWithAPosixLockIsHeld) {
  model::DescriptorTable wanted{.descriptors = {{.fd = {3}}, {.fd = {4}, .open_file = 1}},
                                .open_files = {file(1, {lock(LockKind::flock, LockMode::write)}),
                                               file(2, {lock(LockKind::posix, LockMode::read)})}};
  EXPECT_FALSE(model::may_be_held(wanted.open_files[0]));
  EXPECT_TRUE(model::may_be_held(wanted.open_files[1]));
  const auto plan = diff::plan_descriptors(wanted, {});
  EXPECT_THAT(texts(plan),
              ::testing::IsSupersetOf(
                  {"open file 0 anew", "give the task the held file 1", "file 0: take write lock (flock)",
                   "file 1: take read lock on bytes from 0 on (POSIX)", "close the spare number of file 1"}));
  EXPECT_THAT(plan.refusals, IsEmpty());
}

TEST(TableLocksTest, ALeaseThatIsBeingBrokenIsRefused) {
  model::DescriptorTable wanted{.descriptors = {{.fd = {3}}},
                                .open_files = {file(1, {lock(LockKind::lease, LockMode::write)})}};
  model::DescriptorTable living = wanted;
  living.open_files[0].same_as = 0;
  living.open_files[0].locks[0].breaking = true;
  EXPECT_THAT(diff::plan_descriptors(wanted, living).refusals, SizeIs(1));
}

// --- the texts of /proc
TEST(LockTextTest, LinesOfFdinfo) {
  const auto locks = capture::parse_locks(
      "pos:\t0\nflags:\t02\nlock:\t1: FLOCK  ADVISORY  WRITE 13 00:13:6535 0 EOF\n"
      "lock:\t2: POSIX  ADVISORY  READ  13 fd:10:6535 10 19\nlock:\t3: OFDLCK ADVISORY  READ  -1 00:13:6535 5 5\n"
      "lock:\t4: LEASE  BREAKING  READ  13 00:13:6535 0 EOF\nlock:\t5: DELEG  ACTIVE    READ  13 00:13:6535 0 EOF\n");
  ASSERT_TRUE(locks.has_value());
  const auto on = [](std::uint64_t device, FileLock one) {
    one.file = {device, 6535};
    return one;
  };
  FileLock breaking = on(0x13, lock(LockKind::lease, LockMode::read));
  breaking.breaking = true;
  EXPECT_THAT(*locks, ElementsAre(on(0x13, lock(LockKind::flock, LockMode::write)),
                                  on(0xfd10, lock(LockKind::posix, LockMode::read, 10, 19)),
                                  on(0x13, lock(LockKind::open_file, LockMode::read, 5, 5)), breaking,
                                  on(0x13, lock(LockKind::other, LockMode::read))));
  EXPECT_THAT(capture::parse_locks("pos:\t0\n").value(), IsEmpty());
  for (const char* const bad : {"lock:\t1: FLOCK\n", "lock:\t\n", "lock:\t1: POSIX  ADVISORY  READ 13 00:13 0 EOF\n",
                                "lock:\t1: POSIX  ADVISORY  READ 13 00:13:1 0\n"})
    EXPECT_FALSE(capture::parse_locks(bad).has_value()) << bad;
}

TEST(LockTextTest, TheListOfAllLocks) {
  constexpr std::string_view kListed =
      "1: FLOCK  ADVISORY  READ  13 00:13:7 0 EOF\n2: FLOCK  ADVISORY  READ  14 00:13:7 0 EOF\n"
      "3: POSIX  ADVISORY  WRITE 15 00:13:8 0 EOF\n3: -> POSIX  ADVISORY  WRITE 16 00:13:8 0 0\n";
  EXPECT_EQ(capture::count_flocks(kListed, {0x13, 7}), 2);
  EXPECT_EQ(capture::count_flocks(kListed, {0x13, 8}), 0);
  EXPECT_TRUE(capture::somebody_waits(kListed, LockKind::posix, {0x13, 8}));
  EXPECT_FALSE(capture::somebody_waits(kListed, LockKind::posix, {0x13, 7}));
  EXPECT_FALSE(capture::somebody_waits(kListed, LockKind::flock, {0x13, 7}));
}

}  // namespace
}  // namespace relive
