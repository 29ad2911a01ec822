// relive fails at every step of a way back, and is killed at every one: the next call goes to the end.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "base/fault.h"
#include "files/directory.h"
#include "files/ground.h"
#include "files/picture.h"
#include "files/shaker.h"

namespace relive {
namespace {

using files::Directory;
using testing::Ground;
using testing::Inodes;
using testing::picture_of;
using testing::Shaker;
using testing::unlike;

constexpr std::uint64_t kSeed = 20'260'101;
constexpr std::uint64_t kMostPoints = 3000;

Result<files::Done> go(Directory& files, files::Saved& saved, const files::Look& look) {
  RELIVE_TRY(files.prepare(saved, look));
  return files.put_back(saved, look);
}

class FilesFaultsTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::string lacks;
    ground_ = Ground::make("here", lacks);
    ASSERT_TRUE(ground_) << lacks;
    store_ = GetParam();
    inodes_ = store_.empty() ? Inodes::same : Inodes::any;
  }
  [[nodiscard]] std::string directory() const { return ground_->directory(); }
  void nothing_is_left() const {
    for (const auto& entry : std::filesystem::directory_iterator(ground_->root()))
      EXPECT_FALSE(entry.path().filename().string().starts_with(".relive")) << entry.path();
  }

  std::unique_ptr<Ground> ground_;
  std::string store_;
  Inodes inodes_ = Inodes::same;
};

// Beside the directory, and on another file system.
INSTANTIATE_TEST_SUITE_P(With, FilesFaultsTest, ::testing::Values("", "/dev/shm"),
                         [](const auto& ground) { return *ground.param == 0 ? "LinksBeside" : "CopiesElsewhere"; });

TEST_P(FilesFaultsTest, AFailureAtAnyStepIsGoneOnFrom) {
  Shaker shaker(directory(), kSeed);
  shaker.shake(300);
  auto opened = Directory::open(directory(), store_);
  ASSERT_TRUE(opened.has_value()) << opened.error().text();
  Directory& files = **opened;
  auto saved = files.take({});
  ASSERT_TRUE(saved.has_value()) << saved.error().text();
  const auto wanted = picture_of(directory(), inodes_);
  std::uint64_t failed = 0;
  for (std::uint64_t point = 0;; ++point) {
    ASSERT_LT(point, kMostPoints);
    SCOPED_TRACE("point " + std::to_string(point));
    shaker.shake(60);
    auto look = files.look(*saved, {});
    ASSERT_TRUE(look.has_value()) << look.error().text();
    arm_faults({.action = FaultPlan::Action::fail, .at = point});
    const auto broken = go(files, *saved, *look);
    arm_faults({});
    if (!broken) {
      ++failed;
      ASSERT_EQ(broken.error().kind, ErrorKind::injected) << broken.error().text();
      look = files.look(*saved, {});
      ASSERT_TRUE(look.has_value()) << look.error().text();
      const auto done = go(files, *saved, *look);
      ASSERT_TRUE(done.has_value()) << done.error().text();
    }
    ASSERT_EQ(unlike(wanted, picture_of(directory(), inodes_)), "");
    if (broken) break;
  }
  EXPECT_GT(failed, 20U);
  opened->reset();
  nothing_is_left();
}

TEST_P(FilesFaultsTest, ADeathAtAnyStepIsGoneOnFromByTheNextProcess) {
  Shaker shaker(directory(), kSeed + 1);
  shaker.shake(200);
  std::uint64_t died = 0;
  for (std::uint64_t point = 0;; point += 1 + point / 40) {
    ASSERT_LT(point, kMostPoints);
    SCOPED_TRACE("killed at point " + std::to_string(point));
    const auto wanted = picture_of(directory(), inodes_);
    const pid_t child = ::fork();
    if (child == 0) {
      auto files = Directory::open(directory(), store_);
      if (!files) ::_exit(2);
      auto saved = (*files)->take({});
      if (!saved) ::_exit(3);
      shaker.shake(60);
      auto look = (*files)->look(*saved, {});
      if (!look || !look->obstacles.empty()) ::_exit(4);
      arm_faults({.action = FaultPlan::Action::kill, .at = point});
      const bool good = go(**files, *saved, *look).has_value();
      files->reset();
      ::_exit(good ? 0 : 5);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (WIFEXITED(status)) {
      ASSERT_EQ(WEXITSTATUS(status), 0);
      ASSERT_EQ(unlike(wanted, picture_of(directory(), inodes_)), "");
      break;
    }
    ++died;
    const bool begun = Directory::unfinished(directory(), store_);
    EXPECT_EQ(begun, point > 0);  // the first point is before the journal
    if (begun) {
      const auto refused = Directory::open(directory(), store_);
      ASSERT_FALSE(refused.has_value());
      EXPECT_EQ(refused.error().kind, ErrorKind::busy);
    }
    const auto done = Directory::finish(directory(), store_, Directory::Others::wait);
    ASSERT_TRUE(done.has_value()) << done.error().text();
    if (begun) {
      ASSERT_EQ(unlike(wanted, picture_of(directory(), inodes_)), "");
    }
    EXPECT_FALSE(Directory::unfinished(directory(), store_));
  }
  EXPECT_GT(died, 20U);
  nothing_is_left();
}

}  // namespace
}  // namespace relive
