// Named pipes between a child and us: what closing means while a snapshot stands, and ends outside.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "live/engine_subject.h"

namespace relive {
namespace {

using testing::EngineSubject;

constexpr int kEnd = 100;

// A fifo with a name, for the time of a test.
class Fifo {
 public:
  Fifo() : path_(testing::scratch_name("fifo")) {
    ::unlink(path_.c_str());
    EXPECT_EQ(::mkfifo(path_.c_str(), 0600), 0);
    ::signal(SIGPIPE, SIG_IGN);
  }
  Fifo(const Fifo&) = delete;
  Fifo& operator=(const Fifo&) = delete;
  ~Fifo() { ::unlink(path_.c_str()); }
  [[nodiscard]] UniqueFd open(int flags) const { return UniqueFd(::open(path_.c_str(), flags | O_CLOEXEC)); }
  // For a child: at the number kEnd.
  [[nodiscard]] std::function<bool()> opened(int flags) const {
    return [path = path_, flags] {
      const int fd = ::open(path.c_str(), flags);
      return fd >= 0 && ::dup2(fd, kEnd) == kEnd && ::close(fd) == 0;
    };
  }

 private:
  std::string path_;
};

short shown(int fd) {
  pollfd one{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&one, 1, 0) < 0 ? short{-1} : one.revents;
}
bool reads_word(int fd) {
  std::array<char, 8> word{};
  return ::read(fd, word.data(), word.size()) == 4 && std::memcmp(word.data(), "word", 4) == 0;
}

TEST(NamedPipeTest, ASnapshotKeepsNoEndOpen) {
  const Fifo fifo;
  EngineSubject subject(fifo.opened(O_RDWR), {{'c', [] { return ::close(kEnd) == 0; }}});
  subject.expect_snapshot();
  ASSERT_TRUE(subject.does('c'));
  EXPECT_FALSE(fifo.open(O_WRONLY | O_NONBLOCK));
  EXPECT_EQ(errno, ENXIO) << "somebody still reads";
  const UniqueFd reader = fifo.open(O_RDONLY | O_NONBLOCK);
  char byte = 0;
  EXPECT_EQ(::read(reader.get(), &byte, 1), 0) << "somebody still writes";
}

TEST(NamedPipeTest, AReaderWithItsWriterOutsideIsOpenedAnew) {
  const Fifo fifo;
  EngineSubject subject(fifo.opened(O_RDONLY | O_NONBLOCK), {{'c', [] { return ::close(kEnd) == 0; }},
                                                             {'r', [] { return reads_word(kEnd); }},
                                                             {'h', [] { return shown(kEnd) == POLLHUP; }}});
  UniqueFd writer = fifo.open(O_WRONLY | O_NONBLOCK);
  ASSERT_TRUE(writer);
  subject.expect_snapshot();
  for (int time = 0; time < 3; ++time) {
    ASSERT_TRUE(subject.does('c'));
    EXPECT_EQ(::write(writer.get(), "word", 4), -1) << "the task has closed its end";
    subject.expect_rolled_back();
    EXPECT_EQ(::write(writer.get(), "word", 4), 4);
    EXPECT_TRUE(subject.does('r'));
    ASSERT_EQ(::write(writer.get(), "word", 4), 4);
    subject.expect_rolled_back();
    EXPECT_TRUE(subject.does('r')) << "what waits in it belongs to the writer as well";
  }
  writer.reset();
  ASSERT_TRUE(subject.does('c'));
  subject.expect_rolled_back();
  EXPECT_TRUE(subject.does('h')) << "the writer is gone";
}

TEST(NamedPipeTest, AWriterWithItsReaderOutsideIsOpenedAnew) {
  const Fifo fifo;
  const UniqueFd reader = fifo.open(O_RDONLY | O_NONBLOCK);
  EngineSubject subject(fifo.opened(O_WRONLY), {{'c', [] { return ::close(kEnd) == 0; }},
                                                {'w', [] { return ::write(kEnd, "word", 4) == 4; }}});
  subject.expect_snapshot();
  for (int time = 0; time < 3; ++time) {
    ASSERT_TRUE(subject.does('c'));
    EXPECT_EQ(shown(reader.get()), POLLHUP);
    subject.expect_rolled_back();
    EXPECT_EQ(shown(reader.get()), 0);
    EXPECT_TRUE(subject.does('w'));
    EXPECT_TRUE(reads_word(reader.get()));
  }
}

TEST(NamedPipeTest, AReaderGoesOnWaitingForItsFirstWriter) {
  const Fifo fifo;
  EngineSubject subject(fifo.opened(O_RDONLY | O_NONBLOCK), {{'r', [] { return reads_word(kEnd); }},
                                                             {'q', [] { return shown(kEnd) == 0; }},
                                                             {'h', [] { return shown(kEnd) == POLLHUP; }}});
  subject.expect_snapshot();
  for (int time = 0; time < 3; ++time) {
    UniqueFd writer = fifo.open(O_WRONLY | O_NONBLOCK);
    ASSERT_EQ(::write(writer.get(), "word", 4), 4);
    writer.reset();
    ASSERT_TRUE(subject.does('r') && subject.does('h'));
    subject.expect_rolled_back();
    EXPECT_TRUE(subject.does('q'));
  }
}

TEST(NamedPipeTest, OneThatMayNotBeOpenedAnyMoreIsRefusedByName) {
  if (::geteuid() == 0) GTEST_SKIP() << "needs ordinary-user: root may open everything";
  const Fifo fifo;
  EngineSubject subject(fifo.opened(O_RDWR), {{'c', [] { return ::fchmod(kEnd, 0) == 0 && ::close(kEnd) == 0; }}});
  subject.expect_snapshot();
  ASSERT_TRUE(subject.does('c'));
  const auto report = subject.roll_back();
  ASSERT_TRUE(report.has_value() && report->error.has_value());
  EXPECT_EQ(report->fate, apply::Fate::untouched);
  EXPECT_EQ(report->error->kind, ErrorKind::refused);
}

}  // namespace
}  // namespace relive
