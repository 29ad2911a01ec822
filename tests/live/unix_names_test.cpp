// Names of unix sockets, between a child and us.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "live/engine_subject.h"

namespace relive {
namespace {

using testing::EngineSubject;
using ::testing::HasSubstr;

constexpr int kListener = 100;
constexpr const char* kName = "name";

sockaddr_un address(const std::string& path) {
  sockaddr_un out{};
  out.sun_family = AF_UNIX;
  std::memcpy(out.sun_path, path.c_str(), std::min(path.size(), sizeof out.sun_path - 1));
  return out;
}

class UnixNameTest : public ::testing::Test {
 protected:
  UnixNameTest() : directory_(testing::scratch_name("names")) { ::mkdir(directory_.c_str(), 0700); }
  ~UnixNameTest() override {
    for (const char* const name : {kName, "renamed"}) ::unlink((directory_ + "/" + name).c_str());
    ::rmdir(directory_.c_str());
  }
  // The child listens at a relative name, from a directory that it has left.
  [[nodiscard]] std::function<bool()> listening() const {
    return [directory = directory_] {
      const auto here = address(kName);
      const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
      return ::chdir(directory.c_str()) == 0 && ::dup2(fd, kListener) == kListener && ::close(fd) == 0 &&
             ::bind(kListener, reinterpret_cast<const sockaddr*>(&here), sizeof here) == 0 &&
             ::listen(kListener, 3) == 0 && ::chdir("/") == 0;
    };
  }
  // 0, or why nobody listens there.
  [[nodiscard]] int connect_error(const char* name = kName) const {
    const auto there = address(directory_ + "/" + name);
    const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return ::connect(client.get(), reinterpret_cast<const sockaddr*>(&there), sizeof there) == 0 ? 0 : errno;
  }
  [[nodiscard]] const std::string& directory() const { return directory_; }

 private:
  std::string directory_;
};

// SIOCUNIXFILE tells that there is no file only to whom it would tell one.
bool may_ask_for_files() {
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return ::ioctl(probe.get(), SIOCPROTOPRIVATE) < 0 && errno != EPERM;
}

TEST_F(UnixNameTest, ASnapshotDoesNotListen) {
  if (!may_ask_for_files()) GTEST_SKIP() << "needs CAP_NET_ADMIN: to ask for a socket's file";
  EngineSubject subject(listening(), {{'c', [] { return ::close(kListener) == 0; }}});
  subject.expect_snapshot();
  EXPECT_EQ(connect_error(), 0);
  ASSERT_TRUE(subject.does('c'));
  EXPECT_EQ(connect_error(), ECONNREFUSED);
  subject.expect_rolled_back();
  EXPECT_EQ(connect_error(), 0);
}

TEST_F(UnixNameTest, ANameThatSomebodyElseHasNowIsRefused) {
  if (!may_ask_for_files()) GTEST_SKIP() << "needs CAP_NET_ADMIN: to ask for a socket's file";
  EngineSubject subject(listening(), {{'c', [] { return ::close(kListener) == 0; }}});
  subject.expect_snapshot();
  ASSERT_TRUE(subject.does('c'));
  const auto there = address(directory() + "/" + kName);
  ASSERT_EQ(::unlink(there.sun_path), 0);
  const UniqueFd other(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_TRUE(::bind(other.get(), reinterpret_cast<const sockaddr*>(&there), sizeof there) == 0 &&
              ::listen(other.get(), 1) == 0);
  const auto report = subject.roll_back();
  ASSERT_TRUE(report.has_value() && report->error.has_value());
  EXPECT_EQ(report->fate, apply::Fate::untouched);
  EXPECT_THAT(report->error->text(), HasSubstr("is taken"));
  EXPECT_EQ(connect_error(), 0);
}

TEST_F(UnixNameTest, AFileThatWasRenamedIsRefusedWhenItsSocketWasClosed) {
  if (!may_ask_for_files()) GTEST_SKIP() << "needs CAP_NET_ADMIN: to ask for a socket's file";
  EngineSubject subject(listening(), {{'c', [] { return ::close(kListener) == 0; }}});
  ASSERT_EQ(::rename((directory() + "/" + kName).c_str(), (directory() + "/renamed").c_str()), 0);
  subject.expect_snapshot();
  subject.expect_rolled_back();  // open as it was
  EXPECT_EQ(connect_error("renamed"), 0);
  ASSERT_TRUE(subject.does('c'));
  const auto report = subject.roll_back();
  ASSERT_TRUE(report.has_value() && !report->refusals.empty());
  EXPECT_THAT(report->refusals[0].reason, HasSubstr("led to it no more"));
}

}  // namespace
}  // namespace relive
