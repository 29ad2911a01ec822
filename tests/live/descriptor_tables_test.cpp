// A parent and a child that it has forked, their descriptor tables read, planned and put back as one.
#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "apply/descriptors.h"
#include "base/fault.h"
#include "capture/descriptors.h"
#include "capture/kcmp.h"
#include "live/child.h"
#include "live/descriptor_tools.h"
#include "task/frozen_task.h"
#include "task/procfs.h"

namespace relive {
namespace {

using testing::Child;
using testing::ChildEnd;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// What one of the two does. `set_up` of the parent comes before the fork.
struct Part {
  std::function<bool()> set_up = [] { return true; };
  std::function<bool()> forked = [] { return true; };  // of the parent, when the child has set up
  std::function<bool()> wreck = [] { return true; };
  std::function<bool()> is_back = [] { return true; };
  std::function<bool()> is_wrecked = [] { return true; };
};

bool obey(const Part& part, char word) {
  return word == 'w' ? part.wreck() : word == 'b' ? part.is_back() : part.is_wrecked();
}

// The parent passes each word on to the child, over pipes of their own.
int lead(const Part& parent, const Part& child, ChildEnd end) {
  int down[2];
  int up[2];
  if (!parent.set_up() || ::pipe2(down, O_CLOEXEC) != 0 || ::pipe2(up, O_CLOEXEC) != 0) return 1;
  if (::fork() == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::close(down[1]);
    ::close(up[0]);
    const ChildEnd to_parent(down[0], up[1]);
    to_parent.say(child.set_up() ? 'y' : 'n');
    for (;;) to_parent.say(obey(child, to_parent.hear()) ? 'y' : 'n');
  }
  ::close(down[0]);
  ::close(up[1]);
  const ChildEnd to_child(up[0], down[1]);
  const bool both = to_child.hear() == 'y';
  end.say(parent.forked() && both ? 'y' : 'n');
  for (;;) {
    const char word = end.hear();
    const bool own = obey(parent, word);
    to_child.say(word);
    end.say(to_child.hear() == 'y' && own ? 'y' : 'n');
  }
}

std::vector<model::Pid> with_children(model::Pid root) {
  std::vector<model::Pid> all{root};
  const std::string id = std::to_string(root.value);
  const std::string listed = task::read_proc(root, "task/" + id + "/children").value_or("");
  const char* const end = listed.data() + listed.size();
  for (const char* at = listed.data(); at < end; ++at) {
    pid_t pid = 0;
    at = std::from_chars(at, end, pid).ptr;
    if (pid > 0) all.push_back({pid});
  }
  return all;
}

// One freeze of all tasks.
struct Stay {
  std::vector<std::unique_ptr<task::FrozenTask>> tasks;
  std::vector<std::unique_ptr<parasite::Visit>> visits;
  std::vector<parasite::Visit*> tables;
  ~Stay() {
    visits.clear();
    for (const auto& task : tasks)
      if (task->frozen()) task->resume();
  }
};

class Family {
 public:
  Family(const Part& parent, const Part& child)
      : child_([=](ChildEnd end) { return lead(parent, child, end); }), pids_(with_children(child_.pid())) {
    EXPECT_EQ(child_.first_word(), 'y');
  }
  explicit Family(const std::function<int(ChildEnd)>& body) : child_(body), pids_(with_children(child_.pid())) {
    EXPECT_EQ(child_.first_word(), 'y');
  }

  [[nodiscard]] const Child& child() const { return child_; }
  [[nodiscard]] const std::vector<model::Pid>& pids() const { return pids_; }
  [[nodiscard]] const model::DescriptorTable& wanted() const { return wanted_; }
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }

  Result<std::unique_ptr<Stay>> stay() {
    auto stay = std::make_unique<Stay>();
    sessions_.resize(pids_.size());
    for (std::size_t at = 0; at < pids_.size(); ++at) {
      auto task = RELIVE_TRY(task::FrozenTask::freeze(pids_[at]));
      stay->tasks.push_back(std::make_unique<task::FrozenTask>(std::move(task)));
      if (!sessions_[at]) {
        auto session = RELIVE_TRY(parasite::Session::infect(*stay->tasks[at]));
        sessions_[at] = std::make_unique<parasite::Session>(std::move(session));
      }
      auto visit = RELIVE_TRY(parasite::Visit::begin(*stay->tasks[at], *sessions_[at]));
      stay->visits.push_back(std::make_unique<parasite::Visit>(std::move(visit)));
      stay->tables.push_back(stay->visits.back().get());
    }
    return stay;
  }

  Result<void> snapshot() {
    const auto here = RELIVE_TRY(stay());
    wanted_ = RELIVE_TRY(capture::read_descriptors(here->tables, nullptr, nullptr));
    if (const auto reasons = capture::unhandled(wanted_, pids_); !reasons.empty())
      return fail(ErrorKind::refused, reasons.front());
    return capture::hold_descriptors(here->tables, wanted_, holds_);
  }

  Result<model::DescriptorTable> read() {
    const auto here = RELIVE_TRY(stay());
    return capture::read_descriptors(here->tables, &wanted_, &holds_);
  }
  Result<diff::DescriptorPlan> plan() { return diff::plan_descriptors(wanted_, RELIVE_TRY(read()), pids_); }

  // Prepares and, if asked, commits, one task after the other (`last_first`: in the other order); else the visits' ends
  // undo it.
  Result<diff::DescriptorPlan> roll_back(bool carry_out = true, bool last_first = false) {
    const auto here = RELIVE_TRY(stay());
    const auto living = RELIVE_TRY(capture::read_descriptors(here->tables, &wanted_, &holds_));
    auto made = diff::plan_descriptors(wanted_, living, pids_);
    if (!made.refusals.empty()) return made;
    const std::size_t count = pids_.size();
    std::vector<parasite::Program> commits(count);
    std::vector<parasite::Program> cleanups(count);
    std::vector<std::unique_ptr<apply::Workshop>> workshops;
    std::vector<apply::Workshop*> tables;
    notes_.clear();
    for (std::size_t at = 0; at < count; ++at) {
      workshops.push_back(
          std::make_unique<apply::Workshop>(*here->visits[at], task_holds_, holds_, commits[at], cleanups[at], notes_));
      tables.push_back(workshops.back().get());
    }
    RELIVE_TRY(apply::prepare_descriptors(tables, made, wanted_, living));
    RELIVE_TRY(apply::settle_locks(tables, made));
    if (!carry_out) return made;
    std::vector<std::size_t> order(count);
    for (std::size_t at = 0; at < count; ++at) order[at] = last_first ? count - 1 - at : at;
    for (const std::size_t at : order) {
      for (std::size_t index = 0; index < cleanups[at].size(); ++index) {
        commits[at].add(cleanups[at].what(index), wire::Kind::syscall, {}, parasite::Program::OnError::go_on);
        commits[at].operations().back() = cleanups[at].operations()[index];
      }
      const task::FrozenThread& leader = here->tasks[at]->threads()[0];
      const auto xstate = RELIVE_TRY(here->tasks[at]->xstate(leader.tid));
      std::vector<parasite::ThreadGoal> goals(1);
      goals[0].tid = leader.tid;
      goals[0].wanted = {.registers = parasite::reissue_system_call(leader.registers),
                         .xstate = xstate,
                         .signal_mask = leader.signal_mask};
      RELIVE_TRY(here->visits[at]->commit(commits[at], goals));
    }
    for (const std::size_t at : order) RELIVE_TRY(here->visits[at]->depart());
    return made;
  }

  [[nodiscard]] std::vector<std::set<std::string>> all_descriptors() const {
    std::vector<std::set<std::string>> all;
    for (const model::Pid pid : pids_) all.push_back(descriptors_of(pid.value));
    return all;
  }

  void expect_there_and_back(int times = 6) {
    const auto taken = snapshot();
    ASSERT_TRUE(taken.has_value()) << taken.error().text();
    ASSERT_EQ(child_.ask('b'), 'y') << "the snapshot itself changed something";
    expect_no_difference();
    const auto ours = descriptors_of(::getpid()).size();
    for (int time = 0; time < times; ++time) {
      ASSERT_EQ(child_.ask('w'), 'y');
      const auto wrecked = all_descriptors();
      const auto undone = roll_back(false);
      ASSERT_TRUE(undone.has_value()) << undone.error().text();
      ASSERT_THAT(undone->refusals, IsEmpty())
          << undone->refusals.front().object << ": " << undone->refusals.front().reason;
      ASSERT_EQ(all_descriptors(), wrecked) << "undo left something";
      ASSERT_EQ(child_.ask('u'), 'y') << "undo left something";
      const auto done = roll_back(true, time % 2 == 1);
      ASSERT_TRUE(done.has_value()) << done.error().text();
      ASSERT_EQ(child_.ask('b'), 'y') << "time " << time << ": " << ::testing::PrintToString(diff::texts(*done));
      expect_no_difference();
      ASSERT_EQ(descriptors_of(::getpid()).size(), ours);
    }
  }

  // Each step of prepare fails in turn; both tables stay what they are.
  void expect_unchanged_by_faults() {
    const auto taken = snapshot();
    ASSERT_TRUE(taken.has_value()) << taken.error().text();
    ASSERT_EQ(child_.ask('w'), 'y');
    const auto wrecked = all_descriptors();
    std::uint64_t at = 0;
    for (bool passed = false; !passed; ++at) {
      arm_faults({.action = FaultPlan::Action::fail, .at = at});
      const auto result = roll_back(false);
      passed = faults_passed() <= at;
      arm_faults({});
      ASSERT_EQ(all_descriptors(), wrecked) << "at " << at;
      ASSERT_EQ(child_.ask('u'), 'y') << "at " << at;
      ASSERT_EQ(result.has_value(), passed) << (passed ? result.error().text() : "it should have failed");
    }
    EXPECT_GT(at, 3U) << "few steps have a fault point";
    const auto done = roll_back();
    ASSERT_TRUE(done.has_value()) << done.error().text();
    EXPECT_EQ(child_.ask('b'), 'y');
  }

 private:
  void expect_no_difference() {
    const auto nothing = plan();
    ASSERT_TRUE(nothing.has_value()) << nothing.error().text();
    std::vector<std::string> all;
    for (const auto& one : nothing->differences) all.push_back(one.object + ": " + one.text);
    ASSERT_THAT(all, IsEmpty());
  }

  Child child_;
  std::vector<model::Pid> pids_;
  std::vector<std::unique_ptr<parasite::Session>> sessions_;
  model::DescriptorTable wanted_;
  capture::Holds task_holds_;
  capture::FileHolds holds_;
  std::vector<std::string> notes_;
};

// --- small things

bool moved(int from, int to) {
  if (from == to) return true;
  const bool done = ::dup2(from, to) == to;
  ::close(from);
  return done;
}
// A file that is there for this test only, already without a name.
int temporary_file(const char* name) {
  const std::string path = temporary(name);
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
  ::unlink(path.c_str());
  return fd;
}
bool lock_bytes(int fd, short type, off_t first, off_t count) {
  struct flock range{};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = first;
  range.l_len = count;
  return ::fcntl(fd, F_SETLK, &range) == 0;
}
// Who else has the bytes locked? 0: nobody.
pid_t holder_of(int fd, off_t first) {
  struct flock range{};
  range.l_type = F_WRLCK;
  range.l_whence = SEEK_SET;
  range.l_start = first;
  range.l_len = 1;
  if (::fcntl(fd, F_GETLK, &range) != 0) return -1;
  return range.l_type == F_UNLCK ? 0 : range.l_pid;
}

constexpr int kA = 30, kB = 31, kC = 32, kD = 33;

// --- what is read

TEST(DescriptorTablesTest, APipeBetweenTwoTasksIsInsideAndWhatAForkSharesIsOneOpenFile) {
  static const auto set_up = [] {
    int ends[2];
    WANT(::pipe(ends) == 0 && moved(ends[0], kA) && moved(ends[1], kB) && write_all(kB, "abc"));
    WANT(moved(temporary_file("identity"), kC) && lock_bytes(kC, F_RDLCK, 0, 1));
    return true;
  };
  static const auto in_child = [] {
    ::close(kA);
    WANT(lock_bytes(kC, F_RDLCK, 4, 2));
    WANT(moved(::epoll_create1(0), kD));
    epoll_event event{.events = EPOLLOUT, .data = {.fd = kB}};
    return ::epoll_ctl(kD, EPOLL_CTL_ADD, kB, &event) == 0;
  };
  Family family({.set_up = set_up, .forked = [] { return ::close(kB) == 0; }}, {.set_up = in_child});
  ASSERT_EQ(family.pids().size(), 2U);
  const auto taken = family.snapshot();
  ASSERT_TRUE(taken.has_value()) << taken.error().text();
  const model::DescriptorTable& table = family.wanted();
  EXPECT_TRUE(std::ranges::is_sorted(table.descriptors, {}, &model::Descriptor::fd));
  const auto at = [&](int of_table, int fd) -> const model::Descriptor* {
    const auto found =
        std::ranges::find(table.descriptors, model::RemoteFd{.value = fd, .table = of_table}, &model::Descriptor::fd);
    return found == table.descriptors.end() ? nullptr : &*found;
  };
  ASSERT_NE(at(0, kA), nullptr);
  EXPECT_EQ(at(1, kA), nullptr);
  EXPECT_EQ(at(0, kB), nullptr);
  const auto& read_end = std::get<model::PipeEnd>(table.open_files[at(0, kA)->open_file].object);
  EXPECT_FALSE(read_end.outside);
  EXPECT_EQ(read_end.bytes.size(), 3U);
  EXPECT_FALSE(std::get<model::PipeEnd>(table.open_files[at(1, kB)->open_file].object).outside);
  EXPECT_EQ(at(0, kC)->open_file, at(1, kC)->open_file);
  std::vector<std::pair<int, std::uint64_t>> locks;
  for (const auto& lock : table.open_files[at(0, kC)->open_file].locks) locks.emplace_back(lock.table, lock.first);
  EXPECT_THAT(locks, ElementsAre(std::pair{0, 0U}, std::pair{1, 4U}));
  const auto& set = std::get<model::EpollSet>(table.open_files[at(1, kD)->open_file].object);
  ASSERT_EQ(set.entries.size(), 1U);
  EXPECT_EQ(set.entries[0].fd, (model::RemoteFd{.value = kB, .table = 1}));
  EXPECT_FALSE(set.entries[0].stale);
  for (const auto& file : table.open_files)
    if (const auto* const pipe = std::get_if<model::PipeEnd>(&file.object)) {
      const bool to_the_test = pipe->outside;
      EXPECT_TRUE(!to_the_test || pipe->bytes.empty());
    }
}

// Eight tasks with 1,250 descriptors each: inherited ones and their own, all alike.
constexpr int kTasks = 8;
constexpr int kInherited = 650;
constexpr int kOwn = 600;
constexpr int kFirst = 100;

int many(ChildEnd end) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = std::max<rlim_t>(limit.rlim_cur, std::min<rlim_t>(limit.rlim_max, 2048));
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return 1;
  const auto fill = [](int first, int count) {
    for (int at = first; at < first + count; ++at)
      if (!moved(::eventfd(0, 0), at)) ::_exit(2);
  };
  fill(kFirst, kInherited);
  int ready[2];
  if (::pipe(ready) != 0) return 3;
  for (int task = 1; task < kTasks; ++task) {
    if (::fork() != 0) continue;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    fill(kFirst + kInherited, kOwn);
    write_all(ready[1], "r");
    for (;;) ::pause();
  }
  fill(kFirst + kInherited, kOwn);
  char word = 0;
  for (int task = 1; task < kTasks; ++task)
    if (::read(ready[0], &word, 1) != 1) return 4;
  end.say('y');
  return end.hear();
}

TEST(DescriptorTablesTest, ManyDescriptorsOfManyTasksAreToldApartWithFewComparisons) {
  Family family(many);
  ASSERT_EQ(family.pids().size(), std::size_t{kTasks});
  std::uint64_t before = capture::kcmp_calls();
  const auto taken = family.snapshot();
  ASSERT_TRUE(taken.has_value()) << taken.error().text();
  const auto expect_right = [&](const model::DescriptorTable& table) {
    std::map<std::pair<int, int>, std::size_t> file_of;
    for (const auto& d : table.descriptors) file_of[{d.fd.table, d.fd.value}] = d.open_file;
    std::set<std::size_t> own;
    for (int task = 0; task < kTasks; ++task) {
      for (int fd = kFirst; fd < kFirst + kInherited; ++fd) ASSERT_EQ(file_of.at({task, fd}), file_of.at({0, fd}));
      for (int fd = kFirst + kInherited; fd < kFirst + kInherited + kOwn; ++fd)
        ASSERT_TRUE(own.insert(file_of.at({task, fd})).second) << "look-alikes, taken for duplicates";
    }
  };
  expect_right(family.wanted());
  const std::uint64_t n = family.wanted().descriptors.size();
  ASSERT_GT(n, std::uint64_t{kTasks} * (kInherited + kOwn));
  EXPECT_LE(capture::kcmp_calls() - before, n * static_cast<unsigned>(std::bit_width(n)));
  before = capture::kcmp_calls();
  const auto living = family.read();
  ASSERT_TRUE(living.has_value()) << living.error().text();
  expect_right(*living);
  EXPECT_LE(capture::kcmp_calls() - before, n * static_cast<unsigned>(std::bit_width(n)));
}

// --- there and back

// The parent reads, the child writes, each has closed the other end.
const std::function<bool()> kPipe = [] {
  int ends[2];
  WANT(::pipe(ends) == 0 && moved(ends[0], kA) && moved(ends[1], kB) && write_all(kB, "abc"));
  return true;
};
bool peeks(int read_end, std::string_view text) {
  int waiting = 0;
  WANT(::ioctl(read_end, FIONREAD, &waiting) == 0 && static_cast<std::size_t>(waiting) == text.size());
  return true;
}

TEST(DescriptorTablesTest, UnreadBytesOfAPipeBetweenTwoTasksComeBack) {
  const Part parent{.set_up = kPipe,
                    .forked = [] { return ::close(kB) == 0; },
                    .wreck = [] { return !read_now(kA).empty(); },
                    .is_back =
                        [] {
                          WANT(!is_open(kB) && peeks(kA, "abc"));
                          return true;
                        },
                    .is_wrecked = [] { return peeks(kA, "zz"); }};
  const Part child{.set_up = [] { return ::close(kA) == 0; },
                   .wreck = [] { return write_all(kB, "zz"); },
                   .is_back = [] { return !is_open(kA) && is_open(kB); }};
  Family(parent, child).expect_there_and_back();
}

TEST(DescriptorTablesTest, APipeThatOneOfThemHasClosedIsMadeAnewForBoth) {
  const Part parent{.set_up = kPipe,
                    .forked = [] { return ::close(kB) == 0; },
                    .is_back = [] { return peeks(kA, "abc") && read_now(kA) == "abc" && !is_open(kB); },
                    .is_wrecked = [] { return is_open(kA); }};
  const Part child{.set_up = [] { return ::close(kA) == 0; },
                   .wreck = [] { return !is_open(kB) || ::close(kB) == 0; },
                   .is_back = [] { return !is_open(kA) && write_all(kB, "abc"); },
                   .is_wrecked = [] { return !is_open(kB); }};
  // is_back reads the bytes and writes them again: it tries the connection itself.
  Family(parent, child).expect_there_and_back();
}

TEST(DescriptorTablesTest, AnInheritedFileHasOnePositionAgain) {
  const auto at = [](off_t position) { return ::lseek(kC, 0, SEEK_CUR) == position; };
  const Part parent{.set_up =
                        [] {
                          WANT(moved(temporary_file("inherited"), kC) && write_all(kC, "0123456789"));
                          return ::lseek(kC, 4, SEEK_SET) == 4;
                        },
                    .wreck = [] { return ::lseek(kC, 9, SEEK_SET) == 9 && ::close(kC) == 0; },
                    .is_back =
                        [=] {
                          WANT(at(4) && ::lseek(kC, 5, SEEK_SET) == 5);  // which the child sees
                          return true;
                        },
                    .is_wrecked = [] { return !is_open(kC); }};
  const Part child{.wreck = [] { return ::dup2(kC, kD) == kD && ::close(kC) == 0; },
                   .is_back =
                       [=] {
                         WANT(!is_open(kD) && at(5) && ::lseek(kC, 4, SEEK_SET) == 4);
                         return true;
                       },
                   .is_wrecked = [] { return !is_open(kC) && ::lseek(kD, 0, SEEK_CUR) == 9; }};
  Family(parent, child).expect_there_and_back();
}

const Part kInheritedByBoth{.set_up =
                                [] {
                                  WANT(moved(temporary_file("closed"), kC) && write_all(kC, "0123456789"));
                                  WANT(moved(::memfd_create("shared", 0), kD) && write_all(kD, "contents"));
                                  return true;
                                },
                            .wreck = [] { return ::close(kC) == 0; },
                            .is_back =
                                [] {
                                  WANT(is_open(kC) && ::lseek(kC, 0, SEEK_CUR) == 10);
                                  char text[9] = {};
                                  WANT(::pread(kD, text, 8, 0) == 8 && std::string_view(text) == "contents");
                                  WANT(::lseek(kD, 0, SEEK_CUR) == 8);
                                  return true;
                                },
                            .is_wrecked = [] { return !is_open(kC); }};

TEST(DescriptorTablesTest, WhatAllHaveClosedIsGivenBackToAllAsOneOpenFile) {
  Part parent = kInheritedByBoth;
  parent.wreck = [] { return ::close(kC) == 0 && ::close(kD) == 0; };
  Part child = kInheritedByBoth;
  child.set_up = [] { return true; };
  child.wreck = [] { return ::close(kC) == 0 && ::pwrite(kD, "changed!", 8, 0) == 8 && write_all(kD, "more"); };
  Family(parent, child).expect_there_and_back();
}

TEST(DescriptorTablesTest, NothingIsChangedByFaults) {
  Part parent = kInheritedByBoth;
  parent.set_up = [] { return kInheritedByBoth.set_up() && kPipe(); };
  parent.forked = [] { return ::close(kB) == 0; };
  parent.wreck = [] { return ::close(kC) == 0 && ::close(kD) == 0 && ::close(kA) == 0; };
  Part child = kInheritedByBoth;
  child.set_up = [] { return ::close(kA) == 0; };
  Family(parent, child).expect_unchanged_by_faults();
}

TEST(DescriptorTablesTest, UnreadMessagesOfAPairBetweenTwoTasksComeBack) {
  const Part parent{.set_up =
                        [] {
                          int ends[2];
                          WANT(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
                          return moved(ends[0], kA) && moved(ends[1], kB);
                        },
                    .forked = [] { return write_all(kA, "one") && write_all(kA, "two") && ::close(kB) == 0; },
                    .wreck = [] { return write_all(kA, "three"); },
                    .is_back = [] { return !is_open(kB) && read_now(kA).empty(); }};
  const Part child{.set_up = [] { return ::close(kA) == 0; },
                   .wreck =
                       [] {
                         char text[16];
                         WANT(::read(kB, text, sizeof text) == 3);
                         return write_all(kB, "answer");
                       },
                   .is_back =
                       [] {
                         char text[16] = {};
                         WANT(::recv(kB, text, sizeof text, MSG_PEEK) == 3 && std::string_view(text) == "one");
                         return !is_open(kA);
                       }};
  Family(parent, child).expect_there_and_back();
}

TEST(DescriptorTablesTest, APairThatOneOfThemHasClosedIsMadeAnewForBoth) {
  const Part parent{.set_up =
                        [] {
                          int ends[2];
                          WANT(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
                          return moved(ends[0], kA) && moved(ends[1], kB);
                        },
                    .forked = [] { return write_all(kA, "one") && ::close(kB) == 0; },
                    .wreck = [] { return ::close(kA) == 0; },
                    .is_back = [] { return is_open(kA) && !is_open(kB); },
                    .is_wrecked = [] { return !is_open(kA); }};
  const Part child{.set_up = [] { return ::close(kA) == 0; },
                   .is_back = [] { return peeks(kB, "one"); },
                   .is_wrecked = [] { return is_open(kB); }};
  Family(parent, child).expect_there_and_back();
}

TEST(DescriptorTablesTest, ATcpConnectionBetweenTwoTasksComesBack) {
  const Part parent{.set_up =
                        [] {
                          const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
                          sockaddr_in address{};
                          address.sin_family = AF_INET;
                          address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
                          socklen_t size = sizeof address;
                          auto* const any = reinterpret_cast<sockaddr*>(&address);
                          WANT(::bind(listener, any, size) == 0 && ::listen(listener, 1) == 0);
                          WANT(::getsockname(listener, any, &size) == 0);
                          WANT(moved(::socket(AF_INET, SOCK_STREAM, 0), kA) && ::connect(kA, any, size) == 0);
                          WANT(moved(::accept(listener, nullptr, nullptr), kB) && ::close(listener) == 0);
                          return write_all(kA, "hello");
                        },
                    .forked = [] { return ::close(kB) == 0; },
                    .wreck = [] { return write_all(kA, " again"); },
                    .is_back = [] { return is_open(kA) && !is_open(kB); }};
  const Part child{.set_up = [] { return ::close(kA) == 0; },
                   .wreck = [] { return !read_now(kB).empty(); },
                   .is_back = [] { return peeks(kB, "hello"); }};
  Family(parent, child).expect_there_and_back();
}

TEST(DescriptorTablesTest, AnInheritedEpollSetWatchesAsItDid) {
  const auto reports = [](int count) {
    epoll_event events[4];
    return ::epoll_wait(kD, events, 4, 0) == count;
  };
  const Part parent{.set_up =
                        [] {
                          WANT(moved(::eventfd(1, 0), kA) && moved(::epoll_create1(0), kD));
                          epoll_event event{.events = EPOLLIN, .data = {.u64 = 7}};
                          return ::epoll_ctl(kD, EPOLL_CTL_ADD, kA, &event) == 0;
                        },
                    .wreck = [] { return ::close(kA) == 0; },  // the child has it, and so has the set
                    .is_back = [=] { return is_open(kA) && reports(1); },
                    .is_wrecked = [=] { return !is_open(kA) && reports(0); }};
  const Part child{.wreck =
                       [] {
                         epoll_event event{.events = EPOLLPRI, .data = {.u64 = 9}};
                         WANT(::epoll_ctl(kD, EPOLL_CTL_MOD, kA, &event) == 0);
                         WANT(moved(::eventfd(0, 0), kB));
                         return ::epoll_ctl(kD, EPOLL_CTL_ADD, kB, &event) == 0;
                       },
                   .is_back = [=] { return is_open(kA) && !is_open(kB) && reports(1); },
                   .is_wrecked = [=] { return is_open(kA) && reports(0); }};
  Family(parent, child).expect_there_and_back();
}

TEST(DescriptorTablesTest, AnInheritedEpollSetThatBothHaveClosedIsMadeAnew) {
  const auto reports = [] {
    epoll_event events[4];
    return ::epoll_wait(kD, events, 4, 0);
  };
  const Part parent{.set_up =
                        [] {
                          WANT(moved(::epoll_create1(0), kD) && moved(::eventfd(1, 0), kA));
                          epoll_event event{.events = EPOLLIN, .data = {.u64 = 7}};
                          return ::epoll_ctl(kD, EPOLL_CTL_ADD, kA, &event) == 0;
                        },
                    .wreck = [] { return ::close(kD) == 0 && ::close(kA) == 0; },
                    .is_back = [=] { return reports() == 2 && is_open(kA) && !is_open(kB); },
                    .is_wrecked = [] { return !is_open(kD); }};
  const Part child{.set_up =
                       [] {
                         WANT(moved(::eventfd(2, 0), kB));
                         epoll_event event{.events = EPOLLIN, .data = {.u64 = 8}};
                         return ::epoll_ctl(kD, EPOLL_CTL_ADD, kB, &event) == 0;
                       },
                   .wreck = [] { return ::close(kD) == 0; },
                   .is_back = [=] { return reports() == 2 && is_open(kB); },
                   .is_wrecked = [] { return !is_open(kD) && is_open(kB); }};
  Family(parent, child).expect_there_and_back();
}

TEST(DescriptorTablesTest, EachTaskHasItsOwnPosixLocksAgain) {
  const Part parent{.set_up = [] { return moved(temporary_file("locks"), kC) && lock_bytes(kC, F_WRLCK, 0, 2); },
                    .wreck = [] { return lock_bytes(kC, F_UNLCK, 0, 2); },
                    .is_back = [] { return holder_of(kC, 4) > 0 && holder_of(kC, 0) == 0; },
                    .is_wrecked = [] { return holder_of(kC, 4) == 0; }};
  const Part child{.set_up = [] { return lock_bytes(kC, F_WRLCK, 4, 2); },
                   .wreck =
                       [] {
                         const int other = ::dup(kC);
                         return ::close(other) == 0 && ::dup2(kC, kD) == kD;  // the close let go of its lock
                       },
                   .is_back = [] { return !is_open(kD) && holder_of(kC, 0) == ::getppid(); },
                   .is_wrecked = [] { return is_open(kD) && holder_of(kC, 0) == 0; }};
  Family(parent, child).expect_there_and_back();
}

TEST(DescriptorTablesTest, TasksThatHaveExchangedTheirFilesHaveTheirOwnAgain) {
  const Part parent{.set_up =
                        [] {
                          WANT(moved(::eventfd(5, EFD_NONBLOCK), kA) && moved(::eventfd(7, EFD_NONBLOCK), kB));
                          return true;
                        },
                    .forked = [] { return ::close(kB) == 0; },
                    .wreck = [] { return moved(kA, kB); },
                    .is_back = [] { return is_open(kA) && !is_open(kB); },
                    .is_wrecked = [] { return !is_open(kA) && is_open(kB); }};
  const Part child{.set_up = [] { return ::close(kA) == 0; },
                   .wreck = [] { return moved(kB, kA) && ::fcntl(kA, F_SETFL, 0) == 0; },
                   .is_back =
                       [] {
                         eventfd_t count = 0;
                         WANT(::eventfd_read(kB, &count) == 0 && count == 7);
                         return ::eventfd_write(kB, 7) == 0 && (::fcntl(kB, F_GETFL) & O_NONBLOCK) != 0;
                       },
                   .is_wrecked = [] { return is_open(kA) && !is_open(kB); }};
  Family(parent, child).expect_there_and_back();
}

TEST(DescriptorTablesTest, BothEndsOfAPseudoTerminalInTwoTasksGoBackTogether) {
  const auto echoes = [](int fd) {
    termios modes{};
    return ::tcgetattr(fd, &modes) == 0 && (modes.c_lflag & ECHO) != 0;
  };
  const Part parent{.set_up =
                        [] {
                          WANT(moved(::posix_openpt(O_RDWR | O_NOCTTY), kA));
                          WANT(::grantpt(kA) == 0 && ::unlockpt(kA) == 0);
                          return moved(::open(::ptsname(kA), O_RDWR | O_NOCTTY), kB);
                        },
                    .forked = [] { return ::close(kB) == 0; },
                    .wreck = [] { return write_all(kA, "typed\n"); },
                    .is_back = [=] { return echoes(kA) && !is_open(kB) && read_now(kA).empty(); },
                    .is_wrecked = [] { return is_open(kA); }};
  const Part child{.set_up = [] { return ::close(kA) == 0; },
                   .wreck =
                       [] {
                         termios modes{};
                         WANT(::tcgetattr(kB, &modes) == 0);
                         modes.c_lflag &= ~static_cast<tcflag_t>(ECHO);
                         return ::tcsetattr(kB, TCSANOW, &modes) == 0;
                       },
                   .is_back = [=] { return echoes(kB) && read_now(kB).empty(); },
                   .is_wrecked = [=] { return !echoes(kB); }};
  Family(parent, child).expect_there_and_back();
}

TEST(DescriptorTablesTest, AChildThatWasInTheForegroundOfATerminalIsThereAgain) {
  const auto in_front = [](bool of_child) {
    const pid_t group = ::tcgetpgrp(kB);
    return of_child ? group != ::getpgrp() : group == ::getpgrp();
  };
  const auto echoes = [] {
    termios modes{};
    return ::tcgetattr(kB, &modes) == 0 && (modes.c_lflag & ECHO) != 0;
  };
  const Part parent{.set_up =
                        [] {
                          WANT(::setsid() == ::getpid() && moved(::posix_openpt(O_RDWR | O_NOCTTY), kA));
                          WANT(::grantpt(kA) == 0 && ::unlockpt(kA) == 0);
                          WANT(moved(::open(::ptsname(kA), O_RDWR), kB) && ::tcgetpgrp(kB) == ::getpgrp());
                          return ::signal(SIGTTOU, SIG_IGN) != SIG_ERR;
                        },
                    .wreck =
                        [] {
                          termios modes{};
                          WANT(::tcsetpgrp(kB, ::getpgrp()) == 0 && ::tcgetattr(kB, &modes) == 0);
                          modes.c_lflag &= ~static_cast<tcflag_t>(ECHO);
                          return ::tcsetattr(kB, TCSANOW, &modes) == 0;
                        },
                    .is_back = [=] { return in_front(true) && echoes(); },
                    .is_wrecked = [=] { return in_front(false) && !echoes(); }};
  const Part child{.set_up = [] { return ::setpgid(0, 0) == 0 && ::tcsetpgrp(kB, ::getpgrp()) == 0; },
                   .is_back = [=] { return in_front(false); },
                   .is_wrecked = [=] { return in_front(true); }};
  Family(parent, child).expect_there_and_back();
}

}  // namespace
}  // namespace relive
