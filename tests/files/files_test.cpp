// What lies below a directory goes back, whatever was done to it: on every file system that this machine can mount.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>

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

std::uint64_t seed() {
  static const std::uint64_t value = [] {
    const char* const given = std::getenv("RELIVE_SEED");
    const std::uint64_t chosen = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::cout << "RELIVE_SEED=" << chosen << "\n";
    return chosen;
  }();
  return value;
}

class FilesTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::string lacks;
    ground_ = Ground::make(GetParam(), lacks);
    if (!ground_) GTEST_SKIP() << lacks;
    directory_ = ground_->directory();
  }
  void open(const std::string& store = {}) {
    auto opened = Directory::open(directory_, store);
    ASSERT_TRUE(opened.has_value()) << opened.error().text();
    files_ = *std::move(opened);
  }
  files::Saved take() {
    auto saved = files_->take({});
    EXPECT_TRUE(saved.has_value()) << saved.error().text();
    return saved ? *std::move(saved) : files::Saved{};
  }
  files::Done put_back(files::Saved& saved) {
    if (saved.tree.nodes.empty()) return {};
    auto look = files_->look(saved, {});
    EXPECT_TRUE(look.has_value()) << look.error().text();
    if (!look) return {};
    for (const auto& obstacle : look->obstacles) ADD_FAILURE() << obstacle.path << ": " << obstacle.reason;
    const auto prepared = files_->prepare(saved, *look);
    EXPECT_TRUE(prepared.has_value()) << prepared.error().text();
    auto done = files_->put_back(saved, *look);
    EXPECT_TRUE(done.has_value()) << done.error().text();
    return done ? *done : files::Done{};
  }
  // XFS takes room in advance where blocks are shared, and shows it as data or not as it likes (cowextsize, xfs(5)).
  [[nodiscard]] testing::Picture picture(Inodes inodes = Inodes::same) const {
    const bool own_mind = std::string(GetParam()) == "xfs";
    return picture_of(directory_, inodes, own_mind ? testing::Holes::as_zeros : testing::Holes::seen);
  }
  [[nodiscard]] std::string path(const std::string& name) const { return directory_ + "/" + name; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary | std::ios::trunc) << text;
  }
  static std::string read(const std::string& whole) {
    std::ifstream file(whole, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  std::unique_ptr<Ground> ground_;
  std::string directory_;
  std::unique_ptr<Directory> files_;
};

INSTANTIATE_TEST_SUITE_P(On, FilesTest, ::testing::Values("here", "tmpfs", "ext4", "xfs", "btrfs", "overlay"),
                         [](const auto& ground) { return std::string(ground.param); });

TEST_P(FilesTest, WhateverWasDoneIsUndone) {
  constexpr int kTrees = 6;
  constexpr int kRounds = 8;
  for (int tree = 0; tree < kTrees; ++tree) {
    SCOPED_TRACE("RELIVE_SEED=" + std::to_string(seed()) + " tree " + std::to_string(tree));
    Shaker shaker(directory_, seed() + static_cast<std::uint64_t>(tree));
    shaker.shake(120);
    ASSERT_NO_FATAL_FAILURE(open());
    auto first = take();
    const auto wanted = picture();
    shaker.shake(40);
    auto second = take();
    const auto wanted_too = picture();
    for (int round = 0; round < kRounds; ++round) {
      SCOPED_TRACE("round " + std::to_string(round));
      shaker.shake(round == 0 ? 0 : 1 << round);
      const bool to_first = (round & 1) == 0;
      put_back(to_first ? first : second);
      ASSERT_EQ(unlike(to_first ? wanted : wanted_too, picture()), "");
      const auto nothing = put_back(to_first ? first : second);
      EXPECT_EQ(nothing.bytes, 0U);
    }
    files_->drop(first);
    files_->drop(second);
    files_.reset();
  }
  for (const auto& entry : std::filesystem::directory_iterator(ground_->root()))
    EXPECT_FALSE(entry.path().filename().string().starts_with(".relive")) << entry.path();
}

TEST_P(FilesTest, WithTheCopyOnAnotherFileSystemTheContentsComeBack) {
  for (int tree = 0; tree < 3; ++tree) {
    SCOPED_TRACE("RELIVE_SEED=" + std::to_string(seed()) + " tree " + std::to_string(tree));
    Shaker shaker(directory_, seed() + 100 + static_cast<std::uint64_t>(tree));
    shaker.shake(120);
    ASSERT_NO_FATAL_FAILURE(open("/dev/shm"));
    auto saved = take();
    const auto wanted = picture(Inodes::any);
    for (int round = 0; round < 6; ++round) {
      SCOPED_TRACE("round " + std::to_string(round));
      shaker.shake(1 << round);
      put_back(saved);
      ASSERT_EQ(unlike(wanted, picture(Inodes::any)), "");
    }
    files_.reset();
  }
}

// Who has a file open, or mapped, sees the old contents through what it has.
TEST_P(FilesTest, OpenAndMappedFilesAreTheSameInodes) {
  write("mapped", std::string(20'000, 'a'));
  write("removed", "still here");
  write("replaced", "the old one");
  ASSERT_NO_FATAL_FAILURE(open());
  auto saved = take();
  const int mapped = ::open(path("mapped").c_str(), O_RDWR | O_CLOEXEC);
  auto* const there = static_cast<char*>(::mmap(nullptr, 20'000, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0));
  const int removed = ::open(path("removed").c_str(), O_RDWR | O_CLOEXEC);
  struct stat before{};
  struct stat after{};
  ::stat(path("replaced").c_str(), &before);
  for (int round = 0; round < 3; ++round) {
    there[5'000] = 'x';
    ASSERT_EQ(::pwrite(mapped, "y", 1, 9'000), 1);
    ASSERT_EQ(::ftruncate(removed, 3), 0);
    ::unlink(path("removed").c_str());
    write("replaced.new", "another");
    ::rename(path("replaced.new").c_str(), path("replaced").c_str());
    const auto done = put_back(saved);
    EXPECT_EQ(there[5'000], 'a');
    EXPECT_EQ(there[9'000], 'a');
    EXPECT_EQ(done.bytes, 2U * 4096U + 10U);
    ASSERT_EQ(::pwrite(removed, "S", 1, 0), 1);
    EXPECT_EQ(read(path("removed")), "Still here");
    ::stat(path("replaced").c_str(), &after);
    EXPECT_EQ(before.st_ino, after.st_ino);
    EXPECT_EQ(read(path("replaced")), "the old one");
  }
  ::munmap(there, 20'000);
  ::close(mapped);
  ::close(removed);
}

TEST_P(FilesTest, OnlyTheBlocksThatDifferAreWritten) {
  write("large", std::string(8 << 20, 'b'));
  ASSERT_NO_FATAL_FAILURE(open());
  auto saved = take();
  const int fd = ::open(path("large").c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_EQ(::pwrite(fd, "z", 1, 4'000'000), 1);
  ::close(fd);
  EXPECT_EQ(put_back(saved).bytes, 4096U);
  EXPECT_EQ(put_back(saved).bytes, 0U);
}

TEST_P(FilesTest, AMountPointBelowIsRefusedByName) {
  if (std::string(GetParam()) == "here") return;  // it would be seen by all
  write("file", "one");
  ASSERT_NO_FATAL_FAILURE(open());
  auto saved = take();
  ::mkdir(path("mounted").c_str(), 0755);
  ASSERT_EQ(::mount("none", path("mounted").c_str(), "tmpfs", 0, nullptr), 0);
  write("file", "other");
  const auto look = files_->look(saved, {});
  ASSERT_TRUE(look.has_value()) << look.error().text();
  ASSERT_EQ(look->obstacles.size(), 1U);
  EXPECT_EQ(look->obstacles[0].path, "mounted");
  const auto again = files_->take({});
  ASSERT_FALSE(again.has_value());
  EXPECT_THAT(again.error().text(), ::testing::HasSubstr("mounted: is a mount point"));
  ::umount(path("mounted").c_str());
  put_back(saved);
  EXPECT_EQ(read(path("file")), "one");
}

TEST_P(FilesTest, TheDirectoryMayBeTheRootOfAMount) {
  if (std::string(GetParam()) == "here") return;  // it would be seen by all
  directory_ = ground_->root();
  write("file", "one");
  ASSERT_NO_FATAL_FAILURE(open());
  auto saved = take();
  const auto wanted = picture();
  ::unlink(path("file").c_str());
  write("new", "two");
  put_back(saved);
  EXPECT_EQ(unlike(wanted, picture()), "");
}

TEST_P(FilesTest, AFullFileSystemIsRefusedBeforeTheFirstChange) {
  const std::string kind = GetParam();
  if (kind != "ext4" && kind != "xfs") return;  // small ones that can be filled to the last block
  write("cut", std::string(30 << 20, 'c'));
  ASSERT_NO_FATAL_FAILURE(open());
  auto saved = take();
  write("cut", "short");
  const int fd = ::open(path("filler").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  const std::string block(1 << 20, 'f');
  while (::write(fd, block.data(), block.size()) > 0) {
  }
  ::close(fd);
  // The filler itself is new: it is moved out of the way of the count.
  ::rename(path("filler").c_str(), (ground_->root() + "/filler").c_str());
  const auto look = files_->look(saved, {});
  ASSERT_TRUE(look.has_value()) << look.error().text();
  ASSERT_FALSE(look->obstacles.empty());
  EXPECT_THAT(look->obstacles[0].reason, ::testing::HasSubstr("going back takes 30 MiB"));
  EXPECT_EQ(read(path("cut")), "short");
  ::unlink((ground_->root() + "/filler").c_str());
  // xfs gives the blocks of a removed file back behind the call.
  struct statvfs space{};
  while (::statvfs(ground_->root().c_str(), &space) == 0 && space.f_bavail * space.f_frsize < (32U << 20U)) {
    const timespec pause{.tv_sec = 0, .tv_nsec = 1'000'000};
    ::nanosleep(&pause, nullptr);
  }
  put_back(saved);
  EXPECT_EQ(read(path("cut")).size(), 30U << 20U);
}

TEST_P(FilesTest, AnotherDirectoryInItsPlaceIsRefused) {
  if (std::string(GetParam()) == "overlay") return;  // lets nobody rename a directory of its lower layer
  write("file", "one");
  ASSERT_NO_FATAL_FAILURE(open());
  auto saved = take();
  std::filesystem::rename(directory_, directory_ + ".old");
  ::mkdir(directory_.c_str(), 0755);
  const auto look = files_->look(saved, {});
  ASSERT_TRUE(look.has_value()) << look.error().text();
  ASSERT_FALSE(look->obstacles.empty());
  EXPECT_THAT(look->obstacles[0].reason, ::testing::HasSubstr("another directory"));
}

TEST_P(FilesTest, AListOfSavedFilesReadsBackAsItWasWritten) {
  Shaker shaker(directory_, seed() + 7);
  shaker.shake(100);
  write("a name\nof two lines", "x");
  const auto saved = [&] {
    open();
    return take();
  }();
  const std::string text = files::to_text(saved.tree);
  const auto again = files::from_text(text);
  ASSERT_TRUE(again.has_value()) << again.error().text();
  EXPECT_EQ(files::to_text(*again), text);
  for (std::size_t cut = 0; cut + 1 < text.size(); cut += 1 + text.size() / 97)
    EXPECT_FALSE(files::from_text(std::string_view(text).substr(0, cut)).has_value());
}

}  // namespace
}  // namespace relive
