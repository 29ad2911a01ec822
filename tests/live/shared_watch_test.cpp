// Shared memory goes back whoever has written it, watched or not.
#include "rollback/shared_watch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <string_view>

#include "live/child.h"
#include "rollback/engine.h"
#include "task/procfs.h"

namespace relive {
namespace {

using apply::Fate;
using rollback::Engine;
using testing::Child;
using testing::ChildEnd;

constexpr std::size_t kPages = 64;
constexpr std::size_t kWords = kPageSize / sizeof(std::uint64_t);

struct Shared {
  volatile std::uint64_t* words;
  volatile std::uint64_t& of(std::size_t page) const { return words[page * kWords]; }
};
Shared make_shared_memory() {
  void* const made = ::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  const Shared shared{static_cast<volatile std::uint64_t*>(made)};
  for (std::size_t page = 0; page < kPages / 2; ++page) shared.of(page) = page + 1;
  return shared;
}
bool is_intact(const Shared& shared) {
  for (std::size_t page = 0; page < kPages; ++page)
    if (shared.of(page) != (page < kPages / 2 ? page + 1 : 0)) return false;
  return true;
}

// A parent with a child, which share memory. 'p', 'c': the parent or the child writes to it. 'e': a child that is born
// writes and ends. 'i': the same, and nobody waits for it. 'b': it stays. 'm': the parent cuts out a page, and looks at
// it. 'd': it drops one. 'w': a page is changed through a mapping that is made and stays. 'v': is all as it was?
Shared memory_of_child{};
int parent_and_child(ChildEnd end) {
  if (memory_of_child.words == nullptr) memory_of_child = make_shared_memory();
  const Shared shared = memory_of_child;
  int ask[2];
  int answer[2];
  if (::pipe(ask) != 0 || ::pipe(answer) != 0) return 1;
  if (::fork() == 0) {
    ::close(ask[1]);
    char word = 0;
    while (::read(ask[0], &word, 1) == 1) {
      shared.of(3) = 77;
      shared.of(40) = 78;
      if (::write(answer[1], &word, 1) != 1) return 1;
    }
    ::_exit(0);
  }
  const auto born = [&](bool ends) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      shared.of(7) = 79;
      if (ends) ::_exit(0);
      for (;;) ::pause();
    }
    return pid;
  };
  end.say('r');
  for (;;) {
    const char word = end.hear();
    char back = word;
    switch (word) {
      case 'p':
        shared.of(1) = 80;
        shared.of(50) = 81;
        break;
      case 'c':
        if (::write(ask[1], &back, 1) != 1 || ::read(answer[0], &back, 1) != 1) return 1;
        break;
      case 'e':
        ::waitpid(born(true), nullptr, 0);
        break;
      case 'i': {
        ::signal(SIGCHLD, SIG_IGN);
        const pid_t pid = born(true);
        while (::kill(pid, 0) == 0) ::sched_yield();
        break;
      }
      case 'b': {
        born(false);
        while (shared.of(7) != 79) ::sched_yield();
        break;
      }
      case 'm':
        ::madvise(const_cast<std::uint64_t*>(shared.words), kPageSize, MADV_REMOVE);
        back = shared.of(0) == 0 ? word : 'f';
        break;
      case 'd':
        shared.of(2) = 82;
        ::madvise(const_cast<std::uint64_t*>(shared.words + 2 * kWords), kPageSize, MADV_DONTNEED);
        break;
      case 'w': {
        void* const more = ::mremap(const_cast<std::uint64_t*>(shared.words), 0, kPages * kPageSize, MREMAP_MAYMOVE);
        static_cast<std::uint64_t*>(more)[9 * kWords] = 83;
        break;
      }
      default:
        back = is_intact(shared) ? 'p' : 'f';
    }
    end.say(back);
  }
}

class SharedWatchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const auto& proof : tracking::prove_trackers())
      if (proof.kind == tracking::TrackerKind::uffd && !proof.works) GTEST_SKIP() << "needs uffd: " << proof.reason;
    begin();
  }
  void begin() {
    engine_.reset();  // its descriptors are nothing for the child to inherit
    child_ = std::make_unique<Child>(parent_and_child);
    auto opened = Engine::open(child_->pid());
    ASSERT_TRUE(opened.has_value()) << opened.error().text();
    engine_ = *std::move(opened);
    const auto taken = engine_->snapshot({.name = "a", .replace = false, .tracker = tracking::TrackerKind::uffd});
    ASSERT_TRUE(taken.has_value()) << taken.error().text();
  }
  void roll_back() {
    const auto report = engine_->rollback({.name = "a"});
    ASSERT_TRUE(report.has_value()) << report.error().text();
    ASSERT_EQ(report->fate, Fate::done) << (report->error ? report->error->text() : "refused");
    ASSERT_EQ(child_->ask('v'), 'p');
  }
  void goes_back_after(std::string_view words) {
    for (int round = 0; round < 4; ++round) {
      for (const char word : words) {
        ASSERT_EQ(child_->ask(word), word) << round;
      }
      roll_back();
      roll_back();
    }
  }

  std::unique_ptr<Child> child_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(SharedWatchTest, WhatTheTasksWroteGoesBack) { goes_back_after("pc"); }
TEST_F(SharedWatchTest, WhatOneOfThemWroteGoesBack) {
  goes_back_after("p");
  goes_back_after("c");
}
TEST_F(SharedWatchTest, WhatAChildThatHasEndedWroteGoesBack) { goes_back_after("e"); }
TEST_F(SharedWatchTest, WhatAChildThatNobodyWaitedForWroteGoesBack) { goes_back_after("i"); }
TEST_F(SharedWatchTest, WhatAChildThatLivesWroteGoesBack) { goes_back_after("b"); }
TEST_F(SharedWatchTest, APageThatWasCutOutGoesBack) { goes_back_after("m"); }
TEST_F(SharedWatchTest, AWrittenPageThatWasDroppedGoesBack) { goes_back_after("d"); }
TEST_F(SharedWatchTest, WhatASecondMappingWroteGoesBack) { goes_back_after("w"); }
TEST_F(SharedWatchTest, AllTogether) { goes_back_after("pcedmbcwp"); }

TEST_F(SharedWatchTest, WhatOthersWroteIntoATaskGoesBack) {
  roll_back();
  roll_back();
  std::uint64_t other = 7;
  const auto maps = task::read_proc(child_->pid(), "maps");
  ASSERT_TRUE(maps.has_value());
  const std::size_t at = maps->find("/dev/zero (deleted)");
  ASSERT_NE(at, std::string::npos);
  const std::uint64_t begin = std::stoull(maps->substr(maps->rfind('\n', at) + 1), nullptr, 16);
  const iovec here{.iov_base = &other, .iov_len = sizeof other};
  const iovec there{.iov_base = reinterpret_cast<void*>(begin), .iov_len = sizeof other};
  ASSERT_EQ(::process_vm_writev(child_->pid().value, &here, 1, &there, 1, 0), static_cast<ssize_t>(sizeof other));
  roll_back();
}

TEST_F(SharedWatchTest, WhatSomebodyOutsideWroteGoesBack) {
  memory_of_child = make_shared_memory();
  const Shared shared = memory_of_child;
  begin();
  for (int round = 0; round < 4; ++round) {
    shared.of(11) = 84;
    shared.of(60) = 85;
    roll_back();
    roll_back();
  }
  memory_of_child = {};
  ::munmap(const_cast<std::uint64_t*>(shared.words), kPages * kPageSize);
}

}  // namespace
}  // namespace relive
