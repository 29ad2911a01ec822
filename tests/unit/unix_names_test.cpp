// Which unix sockets have one name.
#include "capture/unix_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

#include "diff/sockets.h"

namespace relive {
namespace {

model::Socket bound(const char* path, const char* resolved, std::uint64_t inode) {
  model::Socket socket;
  socket.inode = inode;
  socket.family = AF_UNIX;
  socket.type = SOCK_STREAM;
  socket.state = model::SocketState::listening;
  socket.local.resize(offsetof(sockaddr_un, sun_path) + std::strlen(path) + 1);
  socket.local[0] = std::byte{AF_UNIX};
  std::memcpy(socket.local.data() + offsetof(sockaddr_un, sun_path), path, std::strlen(path));
  socket.file.emplace().path = resolved;
  socket.file->there = true;
  return socket;
}

TEST(UnixNameTest, ARelativeNameCountsFromSomewhere) {
  EXPECT_EQ(capture::directory_of_name("/a/b/c", "c"), "/a/b");
  EXPECT_EQ(capture::directory_of_name("/a/b/c", "b/c"), "/a");
  EXPECT_EQ(capture::directory_of_name("/c", "c"), "/");
  EXPECT_EQ(capture::directory_of_name("/a/bc", "c"), "");
  EXPECT_EQ(capture::directory_of_name("/a/b", "c"), "");
  EXPECT_EQ(capture::directory_of_name("/a/c", "../c"), "");
  EXPECT_EQ(capture::directory_of_name("/a/c", "/a/c"), "");
}

TEST(UnixNameTest, OneNameInTwoDirectoriesIsTwoNames) {
  EXPECT_TRUE(diff::can_become(bound("x", "/a/x", 1), bound("x", "/a/x", 2)));
  EXPECT_FALSE(diff::can_become(bound("x", "/a/x", 1), bound("x", "/b/x", 2)));
  EXPECT_TRUE(diff::can_become(bound("x", "/a/x", 1), bound("x", "/b/x", 1))) << "the same socket, its file moved";
  EXPECT_FALSE(diff::can_become(bound("x", "", 1), bound("x", "", 2))) << "nobody knows";
  EXPECT_TRUE(diff::can_become(bound("/a/x", "/a/x", 1), bound("/a/x", "", 2)));
}

TEST(UnixNameTest, OneWhoseFileWasRenamedIsNotMadeAnew) {
  model::DescriptorTable wanted;
  wanted.descriptors.push_back({.fd = {3}, .open_file = 0});
  wanted.open_files.push_back({.object = bound("/a/x", "/a/y", 1)});
  EXPECT_THAT(diff::plan_descriptors(wanted, {}).refusals, ::testing::IsEmpty());
  std::get<model::Socket>(wanted.open_files[0].object).file->there = false;
  EXPECT_THAT(diff::plan_descriptors(wanted, {}).refusals, ::testing::SizeIs(1));
  std::get<model::Socket>(wanted.open_files[0].object).file->deleted = true;
  EXPECT_THAT(diff::plan_descriptors(wanted, {}).refusals, ::testing::IsEmpty());
}

}  // namespace
}  // namespace relive
