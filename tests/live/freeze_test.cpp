// A freeze that is given up leaves nobody attached.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "live/child.h"
#include "task/frozen_task.h"
#include "task/procfs.h"

namespace relive {
namespace {

using task::FrozenTask;
using testing::Child;
using testing::ChildEnd;

// Stands in vfork(2), where nothing stops it, until the pipe is closed.
[[gnu::noinline]] void wait_in_vfork(int pipe_end, int other_end) {
  const pid_t pid = ::vfork();  // NOLINT(*insecureAPI.vfork,bugprone-unsafe-functions): it is what is tested
  if (pid == 0) {
    char word = 0;
    ::close(other_end);
    (void)!::read(pipe_end, &word, 1);
    ::_exit(0);
  }
  ::waitpid(pid, nullptr, 0);
}

// One thread does not stop, two make others all the time. 'v': let the first one go on.
int breed(ChildEnd end) {
  int gate[2];
  if (::pipe(gate) != 0) return 1;
  std::thread stuck([&] { wait_in_vfork(gate[0], gate[1]); });
  std::atomic<bool> over = false;
  const auto make_threads = [&] {
    while (!over) std::thread([] {}).join();
  };
  std::thread first(make_threads);
  std::thread second(make_threads);
  end.say('r');
  for (char word = end.hear(); word != 'v'; word = end.hear()) end.say(word);
  ::close(gate[1]);
  stuck.join();
  over = true;
  first.join();
  second.join();
  end.say('v');
  return end.hear();
}

std::size_t attached_threads(model::Pid pid) {
  std::size_t count = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid.value) + "/task", error)) {
    const auto status = task::read_proc(pid, "task/" + entry.path().filename().string() + "/status");
    if (status && task::status_field(*status, "TracerPid") != "0") ++count;
  }
  return count;
}

// Some seconds at most.
template <class Condition>
bool comes_true(Condition condition) {
  for (int tries = 0; tries < 10000; ++tries) {
    task::release_lingering();
    if (condition()) return true;
    ::usleep(500);
  }
  return false;
}

TEST(FreezeTest, AFreezeThatIsGivenUpLeavesNobodyAttached) {
  const Child child(breed);
  const auto in_vfork = [&] {
    const auto tasks = std::filesystem::directory_iterator("/proc/" + std::to_string(child.pid().value) + "/task");
    return std::ranges::any_of(tasks, [&](const auto& entry) {
      return task::read_proc(child.pid(), "task/" + entry.path().filename().string() + "/syscall")
          .value_or("")
          .starts_with("58 ");
    });
  };
  ASSERT_TRUE(comes_true(in_vfork));
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const auto task = FrozenTask::freeze(child.pid(), round % 4);
    ASSERT_FALSE(task.has_value());
    ASSERT_TRUE(comes_true([&] { return attached_threads(child.pid()) <= 1; })) << task.error().text();
    ASSERT_EQ(child.ask('x'), 'x');
  }
  child.say('v');
  EXPECT_TRUE(comes_true([] { return task::release_lingering() == 0; }));  // it stops on its way out of vfork(2)
  EXPECT_EQ(child.hear(), 'v');
  EXPECT_EQ(attached_threads(child.pid()), 0U);
}

}  // namespace
}  // namespace relive
