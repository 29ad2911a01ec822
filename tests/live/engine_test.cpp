// The engine end to end, on children that verify themselves from inside.
#include "rollback/engine.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "capture/memory.h"
#include "live/child.h"
#include "task/procfs.h"

namespace relive {
namespace {

using apply::Fate;
using rollback::Engine;
using testing::Child;
using testing::ChildEnd;
using tracking::TrackerKind;

// 'w' wrecks and answers 'w'; 'v' verifies and answers 'p' or 'f'.
constexpr std::size_t kPages = 300;

unsigned char pattern(std::size_t page, std::size_t generation) {
  return static_cast<unsigned char>(page * 7 + generation * 31 + 1);
}

int memory_victim(ChildEnd end) {
  auto* memory = static_cast<unsigned char*>(
      ::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::size_t generation = 0;
  const auto fill = [&] {
    for (std::size_t page = 0; page < kPages; ++page) memory[page * kPageSize + page] = pattern(page, generation);
  };
  fill();
  end.say('r');
  for (;;) {
    const char word = end.hear();
    if (word == 'w') {
      ++generation;
      fill();
      ::munmap(memory + 10 * kPageSize, 5 * kPageSize);
      ::mprotect(memory + 20 * kPageSize, kPageSize, PROT_READ);
      ::madvise(memory + 30 * kPageSize, 4 * kPageSize, MADV_DONTNEED);
      end.say('w');
    } else if (word == 'g') {  // next generation, in order
      ++generation;
      fill();
      end.say(static_cast<char>('0' + generation));
    } else {
      bool right = true;
      for (std::size_t page = 0; page < kPages; ++page)
        right = right && memory[page * kPageSize + page] == pattern(page, generation);
      if (word == 'v') right = right && generation == 0;
      end.say(word == 'n' ? (right ? static_cast<char>('0' + generation) : 'f') : (right ? 'p' : 'f'));
    }
  }
}

class EngineTest : public ::testing::TestWithParam<TrackerKind> {
 protected:
  void SetUp() override {
    for (const auto& proof : tracking::prove_trackers())
      if (proof.kind == GetParam() && !proof.works)
        GTEST_SKIP() << "needs " << tracking::tracker_name(GetParam()) << ": " << proof.reason;
  }
  static rollback::SnapshotOptions named(const char* name) {
    return {.name = name, .replace = false, .tracker = GetParam()};
  }
};

void expect_done(const Result<rollback::RollbackReport>& report) {
  ASSERT_TRUE(report.has_value()) << report.error().text();
  std::string refusals;
  for (const auto& refusal : report->refusals) refusals += refusal.object + ": " + refusal.reason + "; ";
  ASSERT_EQ(report->fate, Fate::done) << refusals << (report->error ? report->error->text() : "");
}

void expect_taken(const Result<rollback::SnapshotReport>& report) {
  ASSERT_TRUE(report.has_value()) << report.error().text();
}

TEST_P(EngineTest, MemoryGoesBackAgainAndAgain) {
  const Child child(memory_victim);
  auto engine = Engine::open(child.pid());
  ASSERT_TRUE(engine.has_value()) << engine.error().text();
  const auto taken = (*engine)->snapshot(named("a"));
  ASSERT_TRUE(taken.has_value()) << taken.error().text();
  ASSERT_EQ(child.ask('v'), 'p') << "armed";
  for (int round = 0; round < 20; ++round) {
    SCOPED_TRACE(round);
    ASSERT_EQ(child.ask('w'), 'w');
    expect_done((*engine)->rollback({.name = "a"}));
    ASSERT_EQ(child.ask('v'), 'p');
  }
}

TEST_P(EngineTest, SeveralSnapshotsInAnyOrder) {
  const Child child(memory_victim);
  auto engine = Engine::open(child.pid());
  ASSERT_TRUE(engine.has_value());
  for (const char* name : {"0", "1", "2", "3"}) {
    const auto taken = (*engine)->snapshot(named(name));
    ASSERT_TRUE(taken.has_value()) << taken.error().text();
    ASSERT_NE(child.ask('g'), 'f');
  }
  for (const char* name : {"2", "0", "3", "1", "1", "3", "0", "2"}) {
    SCOPED_TRACE(name);
    expect_done((*engine)->rollback({.name = name}));
    ASSERT_EQ(child.ask('n'), name[0]);
  }
  ASSERT_TRUE((*engine)->drop("1").has_value());
  expect_done((*engine)->rollback({.name = "3"}));
  ASSERT_EQ(child.ask('n'), '3');
  EXPECT_EQ((*engine)->rollback({.name = "1"}).error().kind, ErrorKind::not_found);
}

TEST_P(EngineTest, DropLeavesNothingBehind) {
  const Child child(memory_victim);
  const std::string maps = task::read_proc(child.pid(), "maps").value();
  const std::string signals = task::read_proc(child.pid(), "status").value();
  auto engine = Engine::open(child.pid());
  expect_taken((*engine)->snapshot(named("a")));
  ASSERT_EQ(child.ask('w'), 'w');
  expect_done((*engine)->rollback({.name = "a"}));
  const auto dropped = (*engine)->drop("a");
  ASSERT_TRUE(dropped.has_value()) << dropped.error().text();
  // What is mapped, not how the kernel has cut it: a mapping that was tracked does not merge again.
  const auto mapped = [](const std::string& text) { return model::merged(capture::parse_maps(text).value()); };
  EXPECT_EQ(mapped(task::read_proc(child.pid(), "maps").value()), mapped(maps));
  for (const char* field : {"SigCgt", "SigIgn", "SigBlk", "Threads", "FDSize"})
    EXPECT_EQ(task::status_field(task::read_proc(child.pid(), "status").value(), field),
              task::status_field(signals, field))
        << field;
  EXPECT_EQ(child.ask('v'), 'p');
}

// Eight threads that count under a mutex; 'w' ends some, starts others and goes
// on counting.
struct Crew {
  std::atomic<int> stop{0};
  std::atomic<long> sum{0};
};

int thread_victim(ChildEnd end) {
  static Crew crew;
  static std::atomic<int> parked{0};
  static std::vector<pid_t> tids(8);
  std::vector<std::thread> threads;
  const auto work = [](int index) {
    tids[static_cast<std::size_t>(index)] = static_cast<pid_t>(::syscall(SYS_gettid));
    const long own = index + 1;
    thread_local long mine = 0;
    ++parked;
    while (crew.stop.load() <= index) {
      crew.sum += own;
      mine += own;
      const timespec nap{.tv_sec = 0, .tv_nsec = 200'000};
      ::nanosleep(&nap, nullptr);
    }
    if (mine % own != 0) ::_exit(77);
  };
  for (int i = 0; i < 8; ++i) threads.emplace_back(work, i);
  while (parked.load() < 8) std::this_thread::yield();
  end.say('r');
  for (;;) {
    const char word = end.hear();
    if (word == 'w') {
      crew.stop = 100;
      for (auto& thread : threads) thread.join();
      threads.clear();
      std::thread([] { ::pause(); }).detach();
      end.say('w');
    } else {
      bool right = threads.size() == 8 && crew.stop.load() == 0;
      for (const pid_t tid : tids) right = right && ::syscall(SYS_tgkill, ::getpid(), tid, 0) == 0;
      const long before = crew.sum.load();
      while (right && crew.sum.load() < before + 100) std::this_thread::yield();
      end.say(right ? 'p' : 'f');
    }
  }
}

TEST_P(EngineTest, ThreadsThatEndedComeBackAndThoseBornGo) {
  const Child child(thread_victim);
  auto engine = Engine::open(child.pid());
  expect_taken((*engine)->snapshot(named("a")));
  ASSERT_EQ(child.ask('v'), 'p') << "armed";
  for (int round = 0; round < 20; ++round) {
    SCOPED_TRACE(round);
    if (round % 3 != 2) {
      ASSERT_EQ(child.ask('w'), 'w');
    }
    expect_done((*engine)->rollback({.name = "a"}));
    ASSERT_EQ(child.ask('v'), 'p');
    EXPECT_EQ(task::status_field(task::read_proc(child.pid(), "status").value(), "Threads"), "9");
  }
}

TEST_P(EngineTest, DiffTellsAndChangesNothing) {
  const Child child(memory_victim);
  auto engine = Engine::open(child.pid());
  expect_taken((*engine)->snapshot(named("a")));
  ASSERT_EQ(child.ask('w'), 'w');
  const auto report = (*engine)->diff("a");
  ASSERT_TRUE(report.has_value()) << report.error().text();
  std::uint64_t pages = 0;
  bool unmapped = false;
  for (const auto& difference : report->differences) {
    pages += difference.pages;
    unmapped = unmapped || (difference.family == diff::Family::mapping && difference.sign == diff::Sign::removed);
  }
  EXPECT_GE(pages, kPages - 10);
  EXPECT_TRUE(unmapped);
  EXPECT_TRUE(report->refusals.empty());
  expect_done((*engine)->rollback({.name = "a"}));
  ASSERT_EQ(child.ask('v'), 'p');
}

INSTANTIATE_TEST_SUITE_P(Trackers, EngineTest,
                         ::testing::Values(TrackerKind::uffd, TrackerKind::soft_dirty, TrackerKind::compare),
                         [](const auto& of) {
                           return of.param == TrackerKind::soft_dirty ? std::string("soft_dirty")
                                                                      : std::string(tracking::tracker_name(of.param));
                         });

}  // namespace
}  // namespace relive
