// A child per kind of descriptor: it sets something up, is captured, wrecks it, is taken back, and looks from inside.
#include "apply/descriptors.h"

#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "base/fault.h"
#include "capture/descriptors.h"
#include "live/child.h"
#include "live/descriptor_tools.h"
#include "task/frozen_task.h"
#include "task/procfs.h"

namespace relive {
namespace {

using parasite::Session;
using parasite::Visit;
using task::FrozenTask;
using testing::Child;
using testing::ChildEnd;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Script {
  std::function<bool()> set_up = [] { return true; };
  std::function<bool()> wreck = [] { return true; };
  std::function<bool()> is_back = [] { return true; };
  std::function<bool()> is_wrecked = [] { return true; };
};

std::function<int(ChildEnd)> obey(const Script& script) {
  return [script](ChildEnd end) -> int {
    end.say(script.set_up() ? 'y' : 'n');
    for (;;) {
      const char word = end.hear();
      const bool good = word == 'w' ? script.wreck() : word == 'b' ? script.is_back() : script.is_wrecked();
      end.say(good ? 'y' : 'n');
    }
  };
}

std::vector<std::string> texts(const std::vector<diff::Difference>& differences) {
  std::vector<std::string> out;
  for (const auto& difference : differences) out.push_back(difference.object + ": " + difference.text);
  return out;
}

class Subject {
 public:
  explicit Subject(const Script& script) : child_(obey(script)) { EXPECT_EQ(child_.first_word(), 'y'); }

  [[nodiscard]] const Child& child() const { return child_; }
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }

  Result<void> snapshot() {
    auto task = RELIVE_TRY(FrozenTask::freeze(child_.pid()));
    if (!session_) session_.emplace(RELIVE_TRY(Session::infect(task)));
    {
      auto visit = RELIVE_TRY(Visit::begin(task, *session_));
      wanted_ = RELIVE_TRY(capture::read_descriptors(std::array{&visit}, nullptr, nullptr));
      if (const auto reasons = capture::unhandled(wanted_); !reasons.empty())
        return fail(ErrorKind::refused, reasons.front());
      RELIVE_TRY(capture::hold_descriptors(std::array{&visit}, wanted_, holds_));
      RELIVE_TRY(capture::look_into_queues(std::array{&visit}, wanted_, holds_));
    }
    task.resume();
    return {};
  }

  Result<diff::DescriptorPlan> plan() {
    auto task = RELIVE_TRY(FrozenTask::freeze(child_.pid()));
    auto visit = RELIVE_TRY(Visit::begin(task, *session_));
    return diff::plan_descriptors(wanted_,
                                  RELIVE_TRY(capture::read_descriptors(std::array{&visit}, &wanted_, &holds_)));
  }

  // Prepares and, if asked, commits; else the visit's end undoes it.
  Result<diff::DescriptorPlan> roll_back(bool carry_out = true) {
    auto task = RELIVE_TRY(FrozenTask::freeze(child_.pid()));
    auto plan = [&]() -> Result<diff::DescriptorPlan> {
      auto visit = RELIVE_TRY(Visit::begin(task, *session_));
      const auto living = RELIVE_TRY(capture::read_descriptors(std::array{&visit}, &wanted_, &holds_));
      auto made = diff::plan_descriptors(wanted_, living);
      if (!made.refusals.empty()) return made;
      parasite::Program commit;
      parasite::Program cleanup;
      notes_.clear();
      apply::Workshop workshop{
          .visit = visit, .holds = task_holds_, .files = holds_, .commit = commit, .cleanup = cleanup, .notes = notes_};
      apply::Workshop* const tables[] = {&workshop};
      RELIVE_TRY(apply::prepare_descriptors(tables, made, wanted_, living));
      RELIVE_TRY(apply::settle_locks(tables, made));
      if (!carry_out) return made;
      for (std::size_t index = 0; index < cleanup.size(); ++index) {
        commit.add(cleanup.what(index), wire::Kind::syscall, {}, parasite::Program::OnError::go_on);
        commit.operations().back() = cleanup.operations()[index];
      }
      const task::FrozenThread& leader = task.threads()[0];
      const auto xstate = RELIVE_TRY(task.xstate(leader.tid));
      std::vector<parasite::ThreadGoal> goals(1);
      goals[0].tid = leader.tid;
      goals[0].wanted = {.registers = parasite::reissue_system_call(leader.registers),
                         .xstate = xstate,
                         .signal_mask = leader.signal_mask};
      RELIVE_TRY(visit.commit(commit, goals));
      RELIVE_TRY(visit.depart());
      return made;
    }();
    if (task.frozen()) task.resume();
    return plan;
  }

  // There, wrecked, prepared and undone, back; and the same a few times more, with no descriptor left over anywhere.
  void expect_there_and_back(int times = 20) {
    const auto taken = snapshot();
    ASSERT_TRUE(taken.has_value()) << taken.error().text();
    EXPECT_EQ(child_.ask('b'), 'y') << "the snapshot itself changed something";
    const auto nothing = plan();
    ASSERT_TRUE(nothing.has_value()) << nothing.error().text();
    EXPECT_THAT(texts(nothing->differences), IsEmpty());
    const std::size_t theirs = descriptors_of(child_.pid().value).size();
    const std::size_t ours = descriptors_of(::getpid()).size();
    for (int time = 0; time < times; ++time) {
      ASSERT_EQ(child_.ask('w'), 'y');
      const auto wrecked = descriptors_of(child_.pid().value);
      const auto undone = roll_back(false);
      ASSERT_TRUE(undone.has_value()) << undone.error().text();
      ASSERT_THAT(undone->refusals, IsEmpty())
          << undone->refusals.front().object << ": " << undone->refusals.front().reason;
      ASSERT_EQ(descriptors_of(child_.pid().value), wrecked) << "undo left something";
      ASSERT_EQ(child_.ask('u'), 'y') << "undo left something";
      const auto done = roll_back();
      ASSERT_TRUE(done.has_value()) << done.error().text();
      ASSERT_EQ(child_.ask('b'), 'y') << "time " << time << ": " << ::testing::PrintToString(texts(done->differences));
      const auto again = plan();
      ASSERT_TRUE(again.has_value()) << again.error().text();
      ASSERT_THAT(texts(again->differences), IsEmpty()) << "time " << time;
      ASSERT_EQ(descriptors_of(child_.pid().value).size(), theirs);
      ASSERT_EQ(descriptors_of(::getpid()).size(), ours);
    }
  }

  // Each step of prepare fails in turn; the wrecked table stays what it is.
  void expect_unchanged_by_faults() {
    const auto taken = snapshot();
    ASSERT_TRUE(taken.has_value()) << taken.error().text();
    ASSERT_EQ(child_.ask('w'), 'y');
    const auto wrecked = descriptors_of(child_.pid().value);
    std::uint64_t at = 0;
    for (;; ++at) {
      arm_faults({.action = FaultPlan::Action::fail, .at = at});
      const auto result = roll_back(false);
      const bool passed = faults_passed() <= at;
      arm_faults({});
      EXPECT_EQ(descriptors_of(child_.pid().value), wrecked);
      EXPECT_EQ(child_.ask('u'), 'y');
      if (passed) {
        EXPECT_TRUE(result.has_value()) << result.error().text();
        break;
      }
      ASSERT_FALSE(result.has_value());
      EXPECT_EQ(result.error().kind, ErrorKind::injected) << result.error().text();
    }
    EXPECT_GT(at, 0U) << "no step has a fault point";
    const auto done = roll_back();
    ASSERT_TRUE(done.has_value()) << done.error().text();
    EXPECT_EQ(child_.ask('b'), 'y');
  }

 private:
  Child child_;
  std::optional<Session> session_;
  model::DescriptorTable wanted_;
  capture::Holds task_holds_;
  capture::FileHolds holds_;
  std::vector<std::string> notes_;
};

// --- small things

std::vector<int> open_numbers() {
  std::vector<int> out;
  for (int fd = 0; fd < 1024; ++fd) {
    if (is_open(fd)) out.push_back(fd);
  }
  return out;
}

// --- files

TEST(DescriptorTest, RegularFiles) {
  static std::vector<int> numbers;
  static const std::string kA = temporary("a");
  static const std::string kB = temporary("b");
  Subject({.set_up =
               [] {
                 const int a = ::open(kA.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
                 WANT(a >= 0 && write_all(a, "0123456789") && ::lseek(a, 3, SEEK_SET) == 3);
                 WANT(::dup2(a, 300) == 300 && ::dup2(a, 301) == 301 && ::close(a) == 0);
                 const int b = ::open(kB.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
                 WANT(b >= 0 && ::dup3(b, 302, O_CLOEXEC) == 302 && ::close(b) == 0);
                 const int deleted = ::open(kA.c_str(), O_RDONLY);
                 WANT(deleted >= 0 && ::dup2(deleted, 303) == 303 && ::close(deleted) == 0);
                 WANT(::fcntl(302, F_SETOWN, ::getpid()) == 0 && ::fcntl(302, F_SETSIG, SIGUSR2) == 0);
                 const int path = ::open("/etc/passwd", O_PATH);
                 WANT(path >= 0 && ::dup2(path, 304) == 304 && ::close(path) == 0);
                 ::unlink(kA.c_str());
                 numbers = open_numbers();
                 return true;
               },
           .wreck =
               [] {
                 static int round = 0;
                 switch (round++ % 3) {
                   case 0:  // moved, replaced, swapped, opened, closed
                     WANT(::lseek(300, 7, SEEK_SET) == 7);
                     WANT(::fcntl(301, F_SETFD, FD_CLOEXEC) == 0);
                     WANT(::fcntl(302, F_SETFL, O_NONBLOCK) == 0 && ::fcntl(302, F_SETOWN, 0) == 0 &&
                          ::fcntl(302, F_SETSIG, 0) == 0);
                     WANT(::dup2(302, 300) == 300 && ::dup2(303, 302) == 302 && ::close(303) == 0 && ::close(304) == 0);
                     WANT(::open("/etc/passwd", O_RDONLY) >= 0 && ::open("/dev/null", O_RDWR) >= 0);
                     WANT(::flock(301, LOCK_EX) == 0);
                     break;
                   case 1:  // all gone
                     WANT(::close(300) == 0 && ::close(301) == 0 && ::close(302) == 0 && ::close(303) == 0 &&
                          ::close(304) == 0);
                     break;
                   default:  // others of the same name
                     for (int fd = 300; fd < 305; ++fd) {
                       const int other = ::open(kB.c_str(), O_WRONLY);
                       WANT(other >= 0 && ::dup2(other, fd) == fd && ::close(other) == 0);
                     }
                     WANT(::timerfd_create(CLOCK_MONOTONIC, 0) >= 0);
                 }
                 return true;
               },
           .is_back =
               [] {
                 WANT(open_numbers() == numbers);
                 char c[2] = {};
                 WANT(::lseek(300, 0, SEEK_CUR) == 3 && ::pread(303, c, 1, 9) == 1 && c[0] == '9');
                 WANT(::lseek(301, 4, SEEK_SET) == 4 && ::lseek(300, 0, SEEK_CUR) == 4 &&
                      ::lseek(301, 3, SEEK_SET) == 3);
                 WANT(::lseek(303, 0, SEEK_CUR) == 0);
                 WANT(::fcntl(300, F_GETFD) == 0 && ::fcntl(301, F_GETFD) == 0 && ::fcntl(302, F_GETFD) == FD_CLOEXEC);
                 WANT((::fcntl(302, F_GETFL) & (O_APPEND | O_NONBLOCK | O_ACCMODE)) == (O_APPEND | O_WRONLY));
                 WANT(::fcntl(302, F_GETOWN) == ::getpid() && ::fcntl(302, F_GETSIG) == SIGUSR2);
                 WANT((::fcntl(304, F_GETFL) & O_PATH) != 0);
                 struct stat one{}, other{};
                 WANT(::fstat(302, &one) == 0 && ::stat(kB.c_str(), &other) == 0 && one.st_ino == other.st_ino);
                 const int probe = ::open("/proc/self/fd/301", O_RDWR);  // nobody has it locked any more
                 WANT(probe >= 0 && ::flock(probe, LOCK_EX | LOCK_NB) == 0 && ::close(probe) == 0);
                 return true;
               }})
      .expect_there_and_back();
  ::unlink(kB.c_str());
}

TEST(DescriptorTest, DirectoriesAndDevices) {
  static DIR* directory = nullptr;
  static std::string next;
  static long place = 0;
  Subject({.set_up =
               [] {
                 directory = ::opendir("/etc");
                 WANT(directory != nullptr);
                 for (int i = 0; i < 5; ++i) WANT(::readdir(directory) != nullptr);
                 place = ::telldir(directory);
                 ::seekdir(directory, place);
                 const int null = ::open("/dev/null", O_RDWR);
                 WANT(null >= 0 && ::dup2(null, 310) == 310 && ::close(null) == 0);
                 const int random = ::open("/dev/urandom", O_RDONLY | O_CLOEXEC);
                 WANT(random >= 0 && ::dup3(random, 311, O_CLOEXEC) == 311 && ::close(random) == 0);
                 return true;
               },
           .wreck =
               [] {
                 WANT(::lseek(::dirfd(directory), 0, SEEK_SET) == 0);
                 WANT(::dup2(310, 311) == 311 && ::close(310) == 0);
                 return true;
               },
           .is_back =
               [] {
                 struct stat status{};
                 WANT(::lseek(::dirfd(directory), 0, SEEK_CUR) == place);
                 WANT(::fstat(310, &status) == 0 && status.st_rdev == 0x103 && ::fstat(311, &status) == 0 &&
                      status.st_rdev == 0x109);
                 WANT(::fcntl(311, F_GETFD) == FD_CLOEXEC);
                 return true;
               }})
      .expect_there_and_back();
}

// --- pipes, eventfds

TEST(DescriptorTest, PipesInsideTheTask) {
  static std::array<int, 2> full{}, dangling{};
  Subject(
      {.set_up =
           [] {
             WANT(::pipe2(full.data(), O_NONBLOCK) == 0 && ::fcntl(full[1], F_SETPIPE_SZ, 8192) == 8192);
             WANT(write_all(full[1], "abc") && write_all(full[1], std::string(5000, 'd')));
             WANT(::pipe(dangling.data()) == 0 && write_all(dangling[1], "last words") && ::close(dangling[1]) == 0);
             return true;
           },
       .wreck =
           [] {
             static int round = 0;
             std::array<int, 2> other{};
             switch (round++ % 5) {
               case 0:
                 WANT(read_now(full[0]).size() == 5003);
                 break;
               case 1:
                 WANT(::close(full[0]) == 0);
                 break;
               case 2:
                 WANT(::close(full[1]) == 0 && ::close(full[0]) == 0 && ::close(dangling[0]) == 0);
                 break;
               case 3:  // another pipe, the other way round
                 WANT(::pipe(other.data()) == 0 && ::dup2(other[1], full[0]) >= 0 && ::dup2(other[0], full[1]) >= 0);
                 break;
               default:
                 WANT(::read(full[0], other.data(), 1) == 1 && ::fcntl(full[1], F_SETPIPE_SZ, 65536) == 65536 &&
                      read_now(dangling[0]) == "last words");
             }
             return true;
           },
       .is_back =
           [] {
             int unread = 0;
             WANT(::ioctl(full[0], FIONREAD, &unread) == 0 && unread == 5003);
             WANT(::fcntl(full[0], F_GETPIPE_SZ) == 8192 && (::fcntl(full[0], F_GETFL) & O_NONBLOCK) != 0);
             WANT(read_now(full[0]) == "abc" + std::string(5000, 'd'));
             WANT(write_all(full[1], "abc") && write_all(full[1], std::string(5000, 'd')));  // as it was
             WANT(::ioctl(dangling[0], FIONREAD, &unread) == 0 && unread == 10);
             pollfd one{.fd = dangling[0], .events = POLLIN, .revents = 0};
             WANT(::poll(&one, 1, 0) == 1 && one.revents == (POLLIN | POLLHUP));
             return true;
           }})
      .expect_there_and_back();
}

TEST(DescriptorTest, EventCounters) {
  if (!semaphores_are_told()) GTEST_SKIP() << "needs eventfd-semaphore: this kernel does not tell it (Linux 6.5 does)";
  static int plain = -1, semaphore = -1;
  const auto look = [](int fd) {
    std::uint64_t value = 0;
    return ::read(fd, &value, sizeof value) == sizeof value ? value : 0;
  };
  const auto add = [](int fd, std::uint64_t value) { return ::write(fd, &value, sizeof value) == sizeof value; };
  Subject({.set_up =
               [add] {
                 plain = ::eventfd(7, 0);
                 semaphore = ::eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);
                 WANT(plain >= 0 && semaphore >= 0 && add(plain, 0x100000000));
                 return true;
               },
           .wreck =
               [look, add] {
                 static int round = 0;
                 switch (round++ % 3) {
                   case 0:
                     WANT(look(plain) == 0x100000007 && look(semaphore) == 1);
                     break;
                   case 1:
                     WANT(::close(plain) == 0 && ::dup2(2, semaphore) == semaphore);
                     break;
                   default:
                     WANT(add(plain, 5) && add(semaphore, 1000000));
                 }
                 return true;
               },
           .is_back =
               [look, add] {
                 WANT((::fcntl(plain, F_GETFL) & O_NONBLOCK) == 0 && (::fcntl(semaphore, F_GETFL) & O_NONBLOCK) != 0);
                 WANT(look(plain) == 0x100000007 && add(plain, 0x100000007));
                 WANT(look(semaphore) == 1 && look(semaphore) == 1 && look(semaphore) == 1 && look(semaphore) == 0 &&
                      add(semaphore, 3));
                 return true;
               }})
      .expect_there_and_back();
}

// --- epoll

TEST(DescriptorTest, EpollSets) {
  if (!semaphores_are_told()) GTEST_SKIP() << "needs eventfd-semaphore: this kernel does not tell it (Linux 6.5 does)";
  static int set = -1, counter = -1, edge = -1, nested = -1;
  static std::array<int, 2> pipe{};
  const auto control = [](int epoll, int act, int fd, std::uint32_t events, std::uint64_t data) {
    epoll_event event{.events = events, .data = {.u64 = data}};
    return ::epoll_ctl(epoll, act, fd, &event) == 0;
  };
  // Every event there is, as "data:events ".
  const auto ready = [](int epoll) {
    std::array<epoll_event, 16> events{};
    const int count = ::epoll_wait(epoll, events.data(), events.size(), 0);
    std::multiset<std::pair<std::uint64_t, std::uint32_t>> out;
    for (int i = 0; i < count; ++i) {
      const epoll_event event = events[static_cast<std::size_t>(i)];
      out.emplace(std::uint64_t{event.data.u64}, std::uint32_t{event.events});
    }
    return out;
  };
  using Events = std::multiset<std::pair<std::uint64_t, std::uint32_t>>;
  Subject({.set_up =
               [control] {
                 set = ::epoll_create1(EPOLL_CLOEXEC);
                 nested = ::epoll_create1(0);
                 counter = ::eventfd(1, 0);
                 edge = ::eventfd(1, 0);
                 WANT(::pipe(pipe.data()) == 0);
                 WANT(control(set, EPOLL_CTL_ADD, counter, EPOLLIN, 0xabcdef0123456789) &&
                      control(set, EPOLL_CTL_ADD, pipe[0], EPOLLIN | EPOLLRDHUP, 2));
                 WANT(control(set, EPOLL_CTL_ADD, edge, EPOLLIN | EPOLLET, 3));
                 WANT(control(nested, EPOLL_CTL_ADD, set, EPOLLIN, 4));
                 return true;
               },
           .wreck =
               [control, ready] {
                 static int round = 0;
                 int other = -1;
                 switch (round++ % 6) {
                   case 0:  // changed, removed, added
                     WANT(control(set, EPOLL_CTL_MOD, counter, EPOLLOUT, 9) &&
                          ::epoll_ctl(set, EPOLL_CTL_DEL, pipe[0], nullptr) == 0);
                     other = ::eventfd(0, 0);
                     WANT(control(set, EPOLL_CTL_ADD, other, EPOLLIN, 10));
                     break;
                   case 1:
                     WANT(::close(set) == 0);
                     break;
                   case 2:
                     WANT(::close(counter) == 0 && ::close(pipe[0]) == 0 && ::close(pipe[1]) == 0);
                     break;
                   case 3:  // numbers exchanged: entries keep their files
                     other = ::dup(counter);
                     WANT(::dup2(pipe[0], counter) >= 0 && ::dup2(other, pipe[0]) >= 0 && ::close(other) == 0);
                     break;
                   case 4:  // an entry whose number is gone, its file is not
                     WANT(::dup(counter) >= 0 && ::close(counter) == 0);
                     break;
                   default:
                     ready(set);  // the edge is taken
                 }
                 return true;
               },
           .is_back =
               [control, ready] {
                 const Events expected{{0xabcdef0123456789, EPOLLIN}, {3, EPOLLIN}};
                 WANT(ready(set) == expected);
                 WANT(write_all(pipe[1], "x"));
                 const Events both{{0xabcdef0123456789, EPOLLIN}, {2, EPOLLIN}};
                 WANT(ready(set) == both);
                 WANT((ready(nested) == Events{{4, EPOLLIN}}));
                 WANT(read_now(pipe[0]) == "x");
                 // The program can go on working with its entries.
                 WANT(control(set, EPOLL_CTL_MOD, counter, EPOLLIN, 5) &&
                      control(set, EPOLL_CTL_MOD, counter, EPOLLIN, 0xabcdef0123456789));
                 WANT(::fcntl(set, F_GETFD) == FD_CLOEXEC);
                 return true;
               }})
      .expect_there_and_back();
}

// --- sockets

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};
Address address_of(int socket) {
  Address address;
  address.size = sizeof address.storage;
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&address.storage), &address.size);
  return address;
}
Address loopback(int family) {
  Address address;
  if (family == AF_INET) {
    auto* const in = reinterpret_cast<sockaddr_in*>(&address.storage);
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.size = sizeof *in;
  } else {
    auto* const in = reinterpret_cast<sockaddr_in6*>(&address.storage);
    in->sin6_family = AF_INET6;
    in->sin6_addr = in6addr_loopback;
    address.size = sizeof *in;
  }
  return address;
}
Address unix_address(const std::string& name, bool abstract) {
  Address address;
  auto* const un = reinterpret_cast<sockaddr_un*>(&address.storage);
  un->sun_family = AF_UNIX;
  std::memcpy(un->sun_path + (abstract ? 1 : 0), name.data(), name.size());
  address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size() + 1);
  return address;
}
int listener_at(const Address& address, int backlog) {
  const int fd = ::socket(address.storage.ss_family, SOCK_STREAM, 0);
  if (fd >= 0 && ::bind(fd, address.get(), address.size) == 0 && ::listen(fd, backlog) == 0) return fd;
  return -1;
}
// A connection to `listener` made and accepted: {client, server}.
std::optional<std::pair<int, int>> connect_to(int listener) {
  const Address address = address_of(listener);
  const int client = ::socket(address.storage.ss_family, SOCK_STREAM, 0);
  if (::connect(client, address.get(), address.size) != 0) return std::nullopt;
  const int server = ::accept(listener, nullptr, nullptr);
  return server < 0 ? std::nullopt : std::optional(std::pair{client, server});
}
// Loopback may take its time under load: the bytes are handed over by another kernel thread then.
bool arrives(int fd) {
  pollfd one{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&one, 1, 20'000) == 1;
}
bool serves(int listener) {
  const auto connection = connect_to(listener);
  return connection && write_all(connection->first, "x") && ::close(connection->first) == 0 &&
         arrives(connection->second) && read_now(connection->second) == "x" && ::close(connection->second) == 0;
}

void expect_listening_goes_back(const std::function<Address()>& where) {
  static int listener = -1, other_number = -1;
  static Address address;
  Subject({.set_up =
               [where] {
                 listener = listener_at(where(), 7);
                 WANT(listener >= 0);
                 address = address_of(listener);
                 const int on = 1;
                 WANT(::setsockopt(listener, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0 &&
                      ::fcntl(listener, F_SETFL, O_RDWR) == 0);
                 other_number = ::dup(listener);
                 return other_number >= 0;
               },
           .wreck =
               [] {
                 static int round = 0;
                 const int off = 0;
                 switch (round++ % 4) {
                   case 0:
                     WANT(::close(listener) == 0 && ::close(other_number) == 0);
                     break;
                   case 1:
                     WANT(::setsockopt(listener, SOL_SOCKET, SO_KEEPALIVE, &off, sizeof off) == 0 &&
                          ::listen(listener, 3) == 0);
                     WANT(::close(other_number) == 0);
                     break;
                   case 2:  // closed and opened anew, elsewhere
                     if (address.storage.ss_family == AF_UNIX) break;
                     WANT(::close(listener) == 0 && ::close(other_number) == 0);
                     WANT(listener_at(address, 9) >= 0);
                     break;
                   default:
                     WANT(::dup2(2, listener) == listener);
                 }
                 return true;
               },
           .is_back =
               [] {
                 int on = 0;
                 socklen_t size = sizeof on;
                 WANT(::getsockopt(listener, SOL_SOCKET, SO_KEEPALIVE, &on, &size) == 0 && on != 0);
                 const Address now = address_of(listener);
                 WANT(now.size == address.size && std::memcmp(&now.storage, &address.storage, now.size) == 0);
                 WANT(serves(listener) && serves(other_number));
                 return true;
               }})
      .expect_there_and_back(8);
}

TEST(DescriptorTest, ListeningTcp4) {
  expect_listening_goes_back([] { return loopback(AF_INET); });
}
TEST(DescriptorTest, ListeningTcp6) {
  const UniqueFd probe(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const Address here = loopback(AF_INET6);
  if (!probe || ::bind(probe.get(), here.get(), here.size) != 0) GTEST_SKIP() << "no IPv6 loopback on this machine";
  expect_listening_goes_back([] { return loopback(AF_INET6); });
}
TEST(DescriptorTest, ListeningUnixAbstract) {
  expect_listening_goes_back([] { return unix_address("relive-test-" + std::to_string(::getpid()), true); });
}
TEST(DescriptorTest, ListeningUnixPath) {
  static const std::string path = temporary("socket");
  expect_listening_goes_back([] { return unix_address(path, false); });
  EXPECT_FALSE(std::filesystem::exists(path + ".relive-" + std::to_string(::getpid())));
  ::unlink(path.c_str());
}

TEST(DescriptorTest, SocketsThatWaitForTheirAddress) {
  static int fresh = -1, bound = -1;
  static Address address;
  Subject({.set_up =
               [] {
                 fresh = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
                 bound = ::socket(AF_INET, SOCK_STREAM, 0);
                 const int on = 1;
                 WANT(::setsockopt(fresh, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
                 const Address here = loopback(AF_INET);
                 WANT(::bind(bound, here.get(), here.size) == 0);
                 address = address_of(bound);
                 return true;
               },
           .wreck =
               [] {
                 static int round = 0;
                 WANT(round++ % 2 == 0 ? ::listen(fresh, 1) == 0 : ::close(fresh) == 0);
                 WANT(::close(bound) == 0);
                 return true;
               },
           .is_back =
               [] {
                 int on = 0;
                 socklen_t size = sizeof on;
                 WANT(::getsockopt(fresh, IPPROTO_TCP, TCP_NODELAY, &on, &size) == 0 && on == 1);
                 WANT(::getsockopt(fresh, SOL_SOCKET, SO_ACCEPTCONN, &on, &size) == 0 && on == 0);
                 WANT((::fcntl(fresh, F_GETFL) & O_NONBLOCK) != 0);
                 const Address now = address_of(bound);
                 WANT(std::memcmp(&now.storage, &address.storage, now.size) == 0);
                 return true;
               }})
      .expect_there_and_back(4);
}

TEST(DescriptorTest, APortTakenByAStrangerIsRefusedByName) {
  static int listener = -1;
  Subject subject({.set_up =
                       [] {
                         listener = listener_at(loopback(AF_INET), 5);
                         return listener >= 0;
                       },
                   .wreck =
                       [] {
                         WANT(::close(listener) == 0);
                         return true;
                       },
                   .is_wrecked =
                       [] {
                         WANT(!is_open(listener));
                         return true;
                       }});
  ASSERT_TRUE(subject.snapshot().has_value());
  auto task = FrozenTask::freeze(subject.child().pid());
  ASSERT_TRUE(task.has_value());
  Address address;
  for (const auto& line : descriptors_of(subject.child().pid().value)) {
    const int number = std::atoi(line.c_str());
    if (line.find("socket:") == std::string::npos) continue;
    address = address_of(UniqueFd(task->borrow(model::RemoteFd{number}).value()).get());
  }
  task->resume();
  ASSERT_EQ(subject.child().ask('w'), 'y');
  const UniqueFd stranger(listener_at(address, 5));
  ASSERT_TRUE(stranger.valid()) << "the port is not free after close: somebody holds it";
  const auto refused = subject.roll_back();
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().kind, ErrorKind::refused);
  EXPECT_THAT(refused.error().text(), HasSubstr("taken by another socket"));
  EXPECT_EQ(subject.child().ask('u'), 'y');
}

TEST(DescriptorTest, ConnectionsAreKeptOrGone) {
  static int kept = -1, closed = -1;
  const UniqueFd listener(listener_at(loopback(AF_INET), 5));
  const Address address = address_of(listener.get());
  ASSERT_TRUE(listener.valid());
  Subject subject({.set_up =
                       [address] {
                         kept = ::socket(AF_INET, SOCK_STREAM, 0);
                         closed = ::socket(AF_INET, SOCK_STREAM, 0);
                         WANT(::connect(kept, address.get(), address.size) == 0 &&
                              ::connect(closed, address.get(), address.size) == 0);
                         return true;
                       },
                   .wreck =
                       [address] {
                         WANT(::close(closed) == 0);
                         const int opened = ::socket(AF_INET, SOCK_STREAM, 0);
                         WANT(::connect(opened, address.get(), address.size) == 0 && write_all(opened, "new"));
                         return true;
                       },
                   .is_back =
                       [] {
                         char c = 0;
                         WANT(write_all(kept, "ping") && ::read(kept, &c, 1) == 1 && c == '!');
                         WANT(::read(closed, &c, 1) == 0);
                         WANT(::send(closed, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
                         return true;
                       }});
  const UniqueFd peer(::accept(listener.get(), nullptr, nullptr));
  const UniqueFd closed_peer(::accept(listener.get(), nullptr, nullptr));
  ASSERT_TRUE(subject.snapshot().has_value());
  for (int time = 0; time < 3; ++time) {
    ASSERT_EQ(subject.child().ask('w'), 'y');
    char buffer[8] = {};
    // The keeper stands in nobody's way: the peer sees the end at once.
    if (time == 0) {
      EXPECT_EQ(::read(closed_peer.get(), buffer, 1), 0);
    }
    const UniqueFd opened(::accept(listener.get(), nullptr, nullptr));
    ASSERT_EQ(::read(opened.get(), buffer, 3), 3);
    const auto done = subject.roll_back();
    ASSERT_TRUE(done.has_value()) << done.error().text();
    EXPECT_THAT(subject.notes(), Contains(HasSubstr("connection kept")));
    EXPECT_EQ(::read(opened.get(), buffer, 1), 0) << "a connection that was opened since is closed";
    ASSERT_TRUE(write_all(peer.get(), "!"));
    EXPECT_EQ(subject.child().ask('b'), 'y');
    EXPECT_EQ(::read(peer.get(), buffer, 4), 4);
  }
}

// --- UDP

int datagram_socket_at(const Address& address) {
  const int fd = ::socket(address.storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && ::bind(fd, address.get(), address.size) == 0) return fd;
  return -1;
}
Address at_port(std::uint16_t port) {
  Address address = loopback(AF_INET);
  reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port = htons(port);
  return address;
}
// A port that nobody has just now.
std::uint16_t free_port() {
  const Address address = address_of(UniqueFd(datagram_socket_at(loopback(AF_INET))).get());
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_port);
}
Script with_datagrams(const Address& here) {
  static int named = -1, sender = -1;
  static Address at;
  at = here;
  return {.set_up =
              [] {
                named = datagram_socket_at(at);
                sender = datagram_socket_at(loopback(AF_INET));
                WANT(named >= 0 && ::connect(sender, at.get(), at.size) == 0);
                ip_mreqn group{};
                group.imr_multiaddr.s_addr = htonl(0xef080707);
                group.imr_ifindex = 1;
                WANT(::setsockopt(named, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group) == 0);
                return ::send(sender, "unread", 6, 0) == 6;
              },
          .wreck =
              [] {
                read_now(named);
                return ::close(named) == 0 && ::connect(sender, at_port(9).get(), at.size) == 0;
              },
          .is_back =
              [] {
                WANT(read_now(named) == "unread");
                return ::send(sender, "unread", 6, 0) == 6;
              },
          .is_wrecked =
              [] {
                sockaddr_in peer{};
                socklen_t size = sizeof peer;
                WANT(::getpeername(sender, reinterpret_cast<sockaddr*>(&peer), &size) == 0);
                return ntohs(peer.sin_port) == 9 && !is_open(named);
              }};
}

TEST(DescriptorTest, DatagramSockets) {
  Subject(with_datagrams(at_port(free_port()))).expect_there_and_back();
  Subject(with_datagrams(at_port(free_port()))).expect_unchanged_by_faults();
}

// Nothing is made: what was read since is sent again in place, by a sender that is bound to all addresses.
TEST(DescriptorTest, DatagramsAreSentAgainInPlace) {
  static int named = -1, sender = -1, netlink = -1;
  const Script script{
      .set_up =
          [] {
            named = datagram_socket_at(loopback(AF_INET));
            Address any = loopback(AF_INET);
            reinterpret_cast<sockaddr_in*>(&any.storage)->sin_addr.s_addr = htonl(INADDR_ANY);
            sender = datagram_socket_at(any);
            netlink = ::socket(AF_NETLINK, SOCK_RAW, 0);
            const Address here = address_of(named);
            return ::sendto(sender, "unread", 6, 0, here.get(), here.size) == 6;
          },
      .wreck =
          [] {
            const int group = 1;
            WANT(read_now(named) == "unread" &&
                 ::setsockopt(netlink, SOL_NETLINK, 1 /* NETLINK_ADD_MEMBERSHIP */, &group, sizeof group) == 0);
            return true;
          },
      .is_back =
          [] {
            std::array<char, 8> bytes{};
            sockaddr_in from{};
            socklen_t size = sizeof from;
            WANT(::recvfrom(named, bytes.data(), bytes.size(), MSG_PEEK | MSG_DONTWAIT,
                            reinterpret_cast<sockaddr*>(&from), &size) == 6);
            const Address there = address_of(sender);
            WANT(from.sin_port == reinterpret_cast<const sockaddr_in*>(&there.storage)->sin_port);
            return from.sin_addr.s_addr == htonl(INADDR_LOOPBACK);
          },
      .is_wrecked =
          [] {
            std::uint32_t groups = 0;
            socklen_t size = sizeof groups;
            WANT(::getsockopt(netlink, SOL_NETLINK, 9 /* NETLINK_LIST_MEMBERSHIPS */, &groups, &size) == 0);
            return groups == 1 && read_now(named).empty();
          }};
  Subject(script).expect_there_and_back();
  Subject(script).expect_unchanged_by_faults();
}

TEST(DescriptorTest, APortOfDatagramsTakenByAStrangerIsRefusedByName) {
  const Address here = at_port(free_port());
  Subject subject(with_datagrams(here));
  ASSERT_TRUE(subject.snapshot().has_value());
  ASSERT_EQ(subject.child().ask('w'), 'y');
  UniqueFd stranger(datagram_socket_at(here));
  ASSERT_TRUE(stranger.valid()) << "the port is not free after close: somebody holds it";
  const auto refused = subject.roll_back();
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().kind, ErrorKind::refused);
  EXPECT_THAT(refused.error().text(), HasSubstr("taken by another socket"));
  EXPECT_EQ(subject.child().ask('u'), 'y');
  stranger.reset();
  const auto done = subject.roll_back();
  ASSERT_TRUE(done.has_value()) << done.error().text();
  EXPECT_EQ(subject.child().ask('b'), 'y');
}

// Whoever sends to a port whose socket the task has closed is told so, though a snapshot stands.
TEST(DescriptorTest, ASenderSeesTheEndOfADatagramSocket) {
  const Address here = at_port(free_port());
  Subject subject(with_datagrams(here));
  const UniqueFd sender(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(sender.get(), here.get(), here.size), 0);
  ASSERT_TRUE(subject.snapshot().has_value());
  ASSERT_EQ(::send(sender.get(), "x", 1, 0), 1);
  ASSERT_EQ(subject.child().ask('w'), 'y');
  ASSERT_EQ(::send(sender.get(), "x", 1, 0), 1);
  EXPECT_EQ(::send(sender.get(), "x", 1, 0), -1);
  EXPECT_EQ(errno, ECONNREFUSED);
}

TEST(DescriptorTest, ADatagramFromOutsideStaysOrIsRefused) {
  static int named = -1;
  static Address here;
  here = at_port(free_port());
  Subject subject({.set_up =
                       [] {
                         named = datagram_socket_at(here);
                         return named >= 0;
                       },
                   .wreck = [] { return !read_now(named).empty(); },
                   .is_back = [] { return read_now(named) == "firstsecond"; },
                   .is_wrecked = [] { return read_now(named).empty(); }});
  const UniqueFd sender(datagram_socket_at(loopback(AF_INET)));
  const auto send = [&](std::string_view text) {
    return ::sendto(sender.get(), text.data(), text.size(), 0, here.get(), here.size) ==
           static_cast<ssize_t>(text.size());
  };
  ASSERT_TRUE(send("first"));
  ASSERT_TRUE(subject.snapshot().has_value());
  ASSERT_TRUE(send("second"));
  const auto kept = subject.roll_back();
  ASSERT_TRUE(kept.has_value()) << kept.error().text();
  EXPECT_THAT(subject.notes(), Contains(HasSubstr("1 datagrams that came since the snapshot stay unread")));
  EXPECT_EQ(subject.child().ask('b'), 'y');
  const auto refused = subject.roll_back();
  ASSERT_TRUE(refused.has_value()) << refused.error().text();
  ASSERT_EQ(refused->refusals.size(), 1U);
  EXPECT_THAT(refused->refusals[0].reason, HasSubstr("cannot send to it again"));
  EXPECT_EQ(subject.child().ask('u'), 'y');
}

TEST(DescriptorTest, UnixSocketPairs) {
  static std::array<int, 2> pair{}, half{}, lone{};
  Subject({.set_up =
               [] {
                 WANT(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) == 0);
                 WANT(write_all(pair[0], "to one") && write_all(pair[0], " and more") && write_all(pair[1], "to zero"));
                 const int bytes = 20000;
                 WANT(::setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) == 0);
                 WANT(::socketpair(AF_UNIX, SOCK_STREAM, 0, half.data()) == 0 && write_all(half[0], "bye") &&
                      ::shutdown(half[0], SHUT_WR) == 0);
                 WANT(::socketpair(AF_UNIX, SOCK_STREAM, 0, lone.data()) == 0 && write_all(lone[0], "last words") &&
                      ::close(lone[0]) == 0);
                 return true;
               },
           .wreck =
               [] {
                 static int round = 0;
                 std::array<int, 2> other{};
                 switch (round++ % 4) {
                   case 0:
                     WANT(read_now(pair[1]) == "to one and more" && write_all(half[1], "answer"));
                     break;
                   case 1:
                     WANT(::close(pair[0]) == 0 && ::close(half[1]) == 0 && ::close(lone[1]) == 0);
                     break;
                   case 2:
                     WANT(::shutdown(pair[0], SHUT_RDWR) == 0 && read_now(half[1]) == "bye" &&
                          read_now(lone[1]) == "last words");
                     break;
                   default:
                     WANT(::socketpair(AF_UNIX, SOCK_STREAM, 0, other.data()) == 0);
                     WANT(::dup2(other[0], pair[0]) >= 0 && ::dup2(other[1], half[0]) >= 0);
                 }
                 return true;
               },
           .is_back =
               [] {
                 int bytes = 0;
                 socklen_t size = sizeof bytes;
                 WANT(::getsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &bytes, &size) == 0 && bytes == 40000);
                 WANT(::fcntl(pair[1], F_GETFD) == FD_CLOEXEC);
                 WANT(read_now(pair[1]) == "to one and more" && read_now(pair[0]) == "to zero");
                 WANT(write_all(pair[0], "to one and more") && write_all(pair[1], "to zero"));
                 WANT(write_all(half[1], "still") && read_now(half[0]) == "still");
                 WANT(::send(half[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
                 char buffer[16] = {};
                 WANT(::recv(half[1], buffer, sizeof buffer, MSG_PEEK) == 3 && std::strcmp(buffer, "bye") == 0);
                 WANT(::recv(lone[1], buffer, sizeof buffer, MSG_PEEK) == 10 &&
                      std::memcmp(buffer, "last words", 10) == 0);
                 pollfd one{.fd = lone[1], .events = POLLIN | POLLRDHUP, .revents = 0};
                 WANT(::poll(&one, 1, 0) == 1 && (one.revents & POLLHUP) != 0);
                 return true;
               }})
      .expect_there_and_back();
}

// --- undo, limits, refusals

TEST(DescriptorTest, AnyFailureLeavesTheTableAsItWas) {
  if (!semaphores_are_told()) GTEST_SKIP() << "needs eventfd-semaphore: this kernel does not tell it (Linux 6.5 does)";
  static int epoll = -1, counter = -1, listener = -1;
  static std::array<int, 2> pipe{}, pair{};
  static const std::string path = temporary("fault-socket");
  Subject({.set_up =
               [] {
                 epoll = ::epoll_create1(0);
                 counter = ::eventfd(3, 0);
                 listener = listener_at(unix_address(path, false), 3);
                 WANT(::pipe(pipe.data()) == 0 && write_all(pipe[1], "abc") &&
                      ::socketpair(AF_UNIX, SOCK_STREAM, 0, pair.data()) == 0);
                 WANT(::dup2(::open("/etc/passwd", O_RDONLY), 320) == 320 &&
                      ::dup2(::open("/dev/null", O_RDONLY), 321) == 321);
                 return listener >= 0;
               },
           .wreck =
               [] {
                 WANT(::close(epoll) == 0 && ::close(counter) == 0 && ::close(listener) == 0 && ::close(pipe[0]) == 0);
                 WANT(::close(pair[0]) == 0 && ::close(320) == 0 && ::dup2(321, 322) == 322 && ::close(321) == 0);
                 return true;
               },
           .is_back =
               [] {
                 WANT(is_open(epoll) && is_open(counter) && read_now(pipe[0]) == "abc" && serves(listener));
                 WANT(write_all(pair[0], "x") && read_now(pair[1]) == "x" && is_open(320) && is_open(321) &&
                      !is_open(322));
                 return true;
               },
           .is_wrecked =
               [] {
                 WANT(!is_open(320) && !is_open(321) && is_open(322) && !is_open(listener) &&
                      std::filesystem::exists(path));
                 return true;
               }})
      .expect_unchanged_by_faults();
  ::unlink(path.c_str());
}

TEST(DescriptorTest, ALimitLoweredSinceIsRefusedByName) {
  Subject subject({.set_up =
                       [] {
                         WANT(::dup2(2, 400) == 400);
                         return true;
                       },
                   .wreck =
                       [] {
                         const rlimit low{100, 100};
                         WANT(::close(400) == 0 && ::setrlimit(RLIMIT_NOFILE, &low) == 0);
                         return true;
                       },
                   .is_wrecked =
                       [] {
                         WANT(!is_open(400));
                         return true;
                       }});
  ASSERT_TRUE(subject.snapshot().has_value());
  ASSERT_EQ(subject.child().ask('w'), 'y');
  const auto refused = subject.roll_back();
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().kind, ErrorKind::refused);
  EXPECT_THAT(refused.error().text(), HasSubstr("RLIMIT_NOFILE"));
  EXPECT_EQ(subject.child().ask('u'), 'y');
}

TEST(DescriptorTest, ATableThatIsAlmostFull) {
  static std::array<int, 2> pipe{};
  Subject({.set_up =
               [] {
                 WANT(::pipe(pipe.data()) == 0 && write_all(pipe[1], "abc"));
                 const auto numbers = open_numbers();
                 const auto limit = static_cast<rlim_t>(numbers.back()) + 8;  // what a rollback needs beside the table
                 const rlimit low{limit, limit};
                 return ::setrlimit(RLIMIT_NOFILE, &low) == 0;
               },
           .wreck =
               [] {
                 WANT(::close(pipe[0]) == 0 && ::close(pipe[1]) == 0);
                 return true;
               },
           .is_back =
               [] {
                 WANT(read_now(pipe[0]) == "abc" && write_all(pipe[1], "abc"));
                 return true;
               }})
      .expect_there_and_back(3);
}

struct Refused {
  const char* name;
  bool (*open)();
  const char* text;
  const char* needs = nullptr;  // of tests/needs: not every machine and user can make it
};

// Tried in a process of its own, which it leaves no trace behind.
bool can(bool (*open)()) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(open() ? 0 : 1);
  int status = -1;
  return ::waitpid(pid, &status, 0) == pid && status == 0;
}

class RefusedKindTest : public ::testing::TestWithParam<Refused> {};

TEST_P(RefusedKindTest, ByName) {
  if (GetParam().needs != nullptr && !can(GetParam().open)) GTEST_SKIP() << "needs " << GetParam().needs << ": it";
  Subject subject({.set_up = GetParam().open});
  const auto refused = subject.snapshot();
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().kind, ErrorKind::refused);
  EXPECT_THAT(refused.error().text(), HasSubstr(GetParam().text));
}

// Only a process outside has the watched file still open; it ends when the child does.
bool watched_elsewhere() {
  const int epoll = ::epoll_create1(0);
  const int counter = ::eventfd(0, 0);
  epoll_event event{.events = EPOLLIN, .data = {.u64 = 0}};
  std::array<int, 2> life{};
  if (::epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &event) != 0 || ::pipe2(life.data(), O_CLOEXEC) != 0) return false;
  const pid_t between = ::fork();
  if (between == 0) {
    if (::fork() != 0) ::_exit(0);
    ::close(life[1]);
    char none = 0;
    while (::read(life[0], &none, 1) > 0) {
    }
    ::_exit(0);
  }
  int status = 0;
  return ::waitpid(between, &status, 0) == between && ::close(counter) == 0 && ::close(life[0]) == 0;
}
bool descriptor_under_way() {
  std::array<int, 2> pair{};
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, pair.data()) != 0) return false;
  char byte = 'x';
  iovec piece{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  const int fd = ::eventfd(0, 0);  // one that cannot be held
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  return ::sendmsg(pair[0], &message, 0) == 1 && ::close(fd) == 0;
}

constexpr int kUserModeOnly = 1;            // UFFD_USER_MODE_ONLY (Linux 5.11)
constexpr unsigned kReportFileIds = 0x200;  // FAN_REPORT_FID: an ordinary user may (Linux 5.13)

bool own_perf_event() {
  perf_event_attr attributes{};
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.size = sizeof attributes;
  attributes.config = PERF_COUNT_SW_DUMMY;
  attributes.exclude_kernel = 1;
  attributes.exclude_hv = 1;
  return ::syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0) >= 0;
}
bool bpf_map() {
  bpf_attr attributes{};
  attributes.map_type = BPF_MAP_TYPE_ARRAY;
  attributes.key_size = 4;
  attributes.value_size = 8;
  attributes.max_entries = 1;
  return ::syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes) >= 0;
}

INSTANTIATE_TEST_SUITE_P(
    DescriptorTest, RefusedKindTest,
    ::testing::Values(Refused{"userfaultfd", [] { return ::syscall(SYS_userfaultfd, kUserModeOnly) >= 0; },
                              "is a userfaultfd; this release does not roll back userfaultfds"},
                      Refused{"fanotify", [] { return ::fanotify_init(kReportFileIds, 0) >= 0; },
                              "is a fanotify group; this release does not roll back fanotify groups"},
                      Refused{"perf_event", own_perf_event,
                              "is a perf event; this release does not roll back perf events", "perf-events"},
                      Refused{"bpf_map", bpf_map, "is a BPF map; this release does not roll back BPF maps", "bpf"},
                      Refused{"memfd_sealed_for_the_future",
                              [] {
                                const int fd = ::memfd_create("x", MFD_ALLOW_SEALING);
                                return ::fcntl(fd, F_ADD_SEALS, 0x10 /* F_SEAL_FUTURE_WRITE */) == 0;
                              },
                              "F_SEAL_FUTURE_WRITE"},
                      Refused{"half_a_datagram",
                              [] {
                                const int fd = datagram_socket_at(loopback(AF_INET));
                                const Address here = address_of(fd);
                                return ::connect(fd, here.get(), here.size) == 0 && ::send(fd, "x", 1, MSG_MORE) == 1;
                              },
                              "is a half-written UDP socket"},
                      Refused{"an_error_pending",
                              [] {
                                const int fd = datagram_socket_at(loopback(AF_INET));
                                const Address nobody = at_port(free_port());
                                return ::connect(fd, nobody.get(), nobody.size) == 0 && ::send(fd, "x", 1, 0) == 1;
                              },
                              "has an error pending"},
                      Refused{"namespace", [] { return ::open("/proc/self/ns/net", O_RDONLY) >= 0; }, "namespace"},
                      Refused{"stale_epoll_entry", watched_elsewhere, "no longer under its number"},
                      Refused{"descriptor_under_way", descriptor_under_way, "under no number any more"}),
    [](const auto& kind) { return std::string(kind.param.name); });

// --- locks, between the child and us

constexpr int kLockFiles = 4;  // flock, open file description, POSIX, lease
std::array<int, kLockFiles> lock_files{};
const std::string kLockPrefix = temporary("lock");  // the same in the child, whose pid is another
std::string lock_path(int file) { return kLockPrefix + std::to_string(file); }

bool take_lock(int file, int fd) {
  struct flock whole{};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  switch (file) {
    case 0:
      return ::flock(fd, LOCK_EX | LOCK_NB) == 0;
    case 1:
      return ::fcntl(fd, F_OFD_SETLK, &whole) == 0;
    case 2:
      return ::fcntl(fd, F_SETLK, &whole) == 0;
    default:
      return ::fcntl(fd, F_SETLEASE, F_WRLCK) == 0;
  }
}
bool close_lock_files() {
  for (const int fd : lock_files) WANT(::close(fd) == 0);
  return true;
}
Script with_locks(std::function<bool()> wreck) {
  ::signal(SIGIO, SIG_IGN);  // somebody wants what we have a lease on
  return {.set_up =
              [] {
                for (int file = 0; file < kLockFiles; ++file) {
                  const auto at = static_cast<std::size_t>(file);
                  lock_files[at] = ::open(lock_path(file).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
                  WANT(take_lock(file, lock_files[at]));
                }
                return true;
              },
          .wreck = std::move(wreck),
          .is_back =
              [] {
                for (const int fd : lock_files) WANT(is_open(fd));
                return true;
              },
          .is_wrecked =
              [] {
                for (const int fd : lock_files) WANT(!is_open(fd));
                return true;
              }};
}
// Can this process take what the child had?
bool free_for_us(int file) {
  const UniqueFd ours(::open(lock_path(file).c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  return ours.valid() && take_lock(file, ours.get());
}
void unlink_lock_files() {
  for (int file = 0; file < kLockFiles; ++file) ::unlink(lock_path(file).c_str());
}

TEST(DescriptorTest, LocksOfClosedFilesComeBack) {
  Subject(with_locks(close_lock_files)).expect_there_and_back();
  Subject(with_locks(close_lock_files)).expect_unchanged_by_faults();
  unlink_lock_files();
}

TEST(DescriptorTest, LocksAreThereForOthersAfterARollback) {
  Subject subject(with_locks(close_lock_files));
  ASSERT_TRUE(subject.snapshot().has_value());
  ASSERT_EQ(subject.child().ask('w'), 'y');
  const auto done = subject.roll_back();
  ASSERT_TRUE(done.has_value()) << done.error().text();
  for (int file = 0; file < kLockFiles; ++file) EXPECT_FALSE(free_for_us(file)) << file;
  unlink_lock_files();
}

TEST(DescriptorTest, ASnapshotKeepsNoLockAlive) {
  Subject subject(with_locks(close_lock_files));
  ASSERT_TRUE(subject.snapshot().has_value());
  for (int file = 0; file < 3; ++file) EXPECT_FALSE(free_for_us(file)) << file;  // to try the lease is to break it
  ASSERT_EQ(subject.child().ask('w'), 'y');
  for (int file = 0; file < kLockFiles; ++file) EXPECT_TRUE(free_for_us(file)) << file;
  unlink_lock_files();
}

TEST(DescriptorTest, ALockThatSomebodyElseHasNowIsRefusedByName) {
  for (int file = 0; file < kLockFiles; ++file) {
    Subject subject(with_locks(close_lock_files));
    ASSERT_TRUE(subject.snapshot().has_value());
    ASSERT_EQ(subject.child().ask('w'), 'y');
    {
      const UniqueFd ours(::open(lock_path(file).c_str(), O_RDWR | O_CLOEXEC));
      ASSERT_TRUE(take_lock(file, ours.get()));
      const auto wrecked = descriptors_of(subject.child().pid().value);
      const auto refused = subject.roll_back();
      ASSERT_FALSE(refused.has_value()) << file;
      EXPECT_EQ(refused.error().kind, ErrorKind::refused) << refused.error().text();
      EXPECT_THAT(refused.error().text(), HasSubstr("lock" + std::to_string(file)));
      EXPECT_EQ(descriptors_of(subject.child().pid().value), wrecked);
      EXPECT_EQ(subject.child().ask('u'), 'y');
    }
    const auto done = subject.roll_back();
    ASSERT_TRUE(done.has_value()) << done.error().text();
    EXPECT_EQ(subject.child().ask('b'), 'y');
  }
  unlink_lock_files();
}

// --- a snapshot stands by, nobody rolls back: closing keeps its meaning

// A seqpacket connection and a datagram socket outside see the task's close as they do without relive.
TEST(DescriptorTest, APeerSeesTheEndOfUnixMessages) {
  static int client = -1, receiver = -1;
  const Address at = unix_address("relive-end-" + std::to_string(::getpid()), true);
  static const Address datagrams = unix_address("relive-gram-" + std::to_string(::getpid()), true);
  const UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ASSERT_TRUE(::bind(listener.get(), at.get(), at.size) == 0 && ::listen(listener.get(), 3) == 0);
  Subject subject({.set_up =
                       [at] {
                         client = ::socket(AF_UNIX, SOCK_SEQPACKET, 0);
                         receiver = ::socket(AF_UNIX, SOCK_DGRAM, 0);
                         WANT(::connect(client, at.get(), at.size) == 0);
                         return ::bind(receiver, datagrams.get(), datagrams.size) == 0;
                       },
                   .wreck = [] { return ::close(client) == 0 && ::close(receiver) == 0; }});
  const UniqueFd peer(::accept(listener.get(), nullptr, nullptr));
  const UniqueFd sender(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(sender.get(), datagrams.get(), datagrams.size), 0);
  ASSERT_EQ(::send(sender.get(), "x", 1, 0), 1);
  ASSERT_EQ(::send(peer.get(), "unread", 6, 0), 6);
  ASSERT_TRUE(subject.snapshot().has_value());
  ASSERT_EQ(subject.child().ask('w'), 'y');
  char byte = 0;
  EXPECT_EQ(::recv(peer.get(), &byte, 1, MSG_DONTWAIT), -1);
  EXPECT_EQ(errno, ECONNRESET) << "it was closed with a message unread";
  EXPECT_EQ(::recv(peer.get(), &byte, 1, MSG_DONTWAIT), 0);
  EXPECT_EQ(::send(sender.get(), "x", 1, 0), -1);
  EXPECT_EQ(errno, ECONNREFUSED);
}

TEST(DescriptorTest, HoldingChangesNothingThatTheTaskCanNotice) {
  static std::array<int, 2> pipe{}, pair{};
  static int listener = -1, epoll = -1, counter = -1;
  Subject subject({.set_up =
                       [] {
                         epoll = ::epoll_create1(0);
                         counter = ::eventfd(1, 0);
                         listener = listener_at(loopback(AF_INET), 5);
                         epoll_event event{.events = EPOLLIN, .data = {.u64 = 1}};
                         WANT(::epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &event) == 0);
                         WANT(::pipe(pipe.data()) == 0 && ::socketpair(AF_UNIX, SOCK_STREAM, 0, pair.data()) == 0);
                         return true;
                       },
                   .wreck =
                       [] {
                         char c = 0;
                         WANT(::close(pipe[1]) == 0 && ::read(pipe[0], &c, 1) == 0);
                         WANT(::close(pair[1]) == 0 && ::read(pair[0], &c, 1) == 0);
                         const Address address = address_of(listener);
                         WANT(::close(listener) == 0 && listener_at(address, 5) >= 0);
                         epoll_event event{};
                         WANT(::close(counter) == 0 && ::epoll_wait(epoll, &event, 1, 0) == 0);
                         return true;
                       }});
  ASSERT_TRUE(subject.snapshot().has_value());
  EXPECT_EQ(subject.child().ask('w'), 'y');
}

}  // namespace
}  // namespace relive
