// What becomes of a task whose keeper is killed while it has the task in its hand (docs/failure-model.md).
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <functional>
#include <sstream>
#include <string>

#include "base/fault.h"
#include "live/child.h"
#include "parasite/session.h"
#include "task/procfs.h"

namespace relive {
namespace {

using parasite::Program;
using parasite::Session;
using parasite::Visit;
using task::FrozenTask;
using testing::Child;
using testing::ChildEnd;

constexpr std::uint64_t kOwnUmask = 022;
constexpr std::uint64_t kPreparedUmask = 0111;
constexpr std::uint64_t kWantedUmask = 0123;

int echo(ChildEnd end) {
  ::umask(kOwnUmask);
  end.say('r');
  for (;;) end.say(end.hear());
}

// As a coroutine: on a small stack of its own, right above memory that nobody else may write to.
constexpr std::size_t kCanaryBytes = 64 << 10;
constexpr std::size_t kSmallStack = 8 << 10;
ucontext_t coroutine;
ucontext_t first;
const ChildEnd* coroutine_end = nullptr;
unsigned char* canary = nullptr;

void echo_in_coroutine() {
  ::umask(kOwnUmask);
  coroutine_end->say('r');
  for (;;) {
    const char word = coroutine_end->hear();
    const bool untouched = std::all_of(canary, canary + kCanaryBytes, [](unsigned char c) { return c == 0x5a; });
    coroutine_end->say(untouched ? word : '!');
  }
}

int echo_on_a_heap_stack(ChildEnd end) {
  coroutine_end = &end;
  canary = static_cast<unsigned char*>(
      ::mmap(nullptr, kCanaryBytes + kSmallStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::memset(canary, 0x5a, kCanaryBytes);
  ::getcontext(&coroutine);
  coroutine.uc_stack.ss_sp = canary + kCanaryBytes;
  coroutine.uc_stack.ss_size = kSmallStack;
  coroutine.uc_link = &first;
  ::makecontext(&coroutine, echo_in_coroutine, 0);
  return ::swapcontext(&first, &coroutine);
}

struct After {
  std::string umask, caught, ignored, blocked, threads;
  bool operator==(const After&) const = default;
};

// What is mapped but for relive's own and the stack, and how many descriptors are open.
std::string belongings(model::Pid pid) {
  std::string out;
  std::istringstream maps(task::read_proc(pid, "maps").value_or(""));
  for (std::string line; std::getline(maps, line);)
    if (line.find("relive-parasite") == std::string::npos && !line.ends_with("[stack]")) out += line + "\n";
  for (int fd = 0; fd < 1000; ++fd)
    if (const auto link = task::read_proc_link(pid, "fd/" + std::to_string(fd)))
      if (link->find("relive-parasite") == std::string::npos) out += std::to_string(fd) + " " + *link + "\n";
  return out;
}

bool has_something_of_relive(model::Pid pid) {
  if (task::read_proc(pid, "maps").value_or("").find("relive-") != std::string::npos) return true;
  for (int fd = 0; fd < 1000; ++fd)
    if (task::read_proc_link(pid, "fd/" + std::to_string(fd)).value_or("").find("relive-") != std::string::npos)
      return true;
  return false;
}

After look(model::Pid pid) {
  const std::string status = task::read_proc(pid, "status").value_or("");
  const auto field = [&](const char* name) { return std::string(task::status_field(status, name)); };
  return {.umask = field("Umask"),
          .caught = field("SigCgt"),
          .ignored = field("SigIgn"),
          .blocked = field("SigBlk"),
          .threads = field("Threads")};
}

// A whole rollback in small: a step that is prepared and recorded, a thread that is made, a commit.
void visit_and_change(model::Pid pid) {
  auto task = FrozenTask::freeze(pid);
  if (!task) ::_exit(1);
  auto session = Session::infect(*task);
  if (!session || !fault_point("infected")) ::_exit(2);
  auto visit = Visit::begin(*task, *session);
  if (!visit || !fault_point("begun")) ::_exit(3);
  model::Tid tid{300};
  while (task::read_proc(model::Pid{tid.value}, "comm").has_value()) ++tid.value;
  if (!visit->record_undo("umask", SYS_umask, {kOwnUmask}) || !fault_point("recorded")) ::_exit(4);
  if (!visit->syscall("umask", SYS_umask, {kPreparedUmask}) || !fault_point("prepared")) ::_exit(5);
  if (!visit->create_thread(tid, 0, {}) || !fault_point("thread made")) ::_exit(6);
  const task::FrozenThread leader = task->threads()[0];
  const auto xstate = task->xstate(leader.tid).value();
  std::vector<parasite::ThreadGoal> goals(2);
  goals[0].tid = leader.tid;
  goals[0].wanted = {.registers = parasite::reissue_system_call(leader.registers),
                     .xstate = xstate,
                     .signal_mask = leader.signal_mask};
  goals[1].tid = tid;
  goals[1].surplus = true;
  Program commit;
  commit.syscall("umask", SYS_umask, {kWantedUmask});
  if (!visit->commit(commit, goals) || !visit->depart()) ::_exit(7);
  ::_exit(0);
}

// Kills a keeper at each of its steps, with a fresh task each time.
void kill_the_keeper_everywhere(int (*body)(ChildEnd)) {
  bool behind_seen = false;
  bool before_seen = false;
  for (std::uint64_t at = 0;; ++at) {
    const Child child(body);
    const After before = look(child.pid());
    const std::string own = belongings(child.pid());
    const pid_t keeper = ::fork();
    if (keeper == 0) {
      arm_faults({.action = FaultPlan::Action::kill, .at = at});
      visit_and_change(child.pid());
    }
    int status = 0;
    ::waitpid(keeper, &status, 0);
    SCOPED_TRACE("killed at step " + std::to_string(at));
    ASSERT_EQ(child.ask('x'), 'x') << "the task does not go on";
    for (int tries = 0; look(child.pid()).threads != "1" && tries < 1000; ++tries) ::usleep(1000);
    After after = look(child.pid());
    EXPECT_TRUE(after.umask == before.umask || after.umask == "0123") << after.umask;
    (after.umask == before.umask ? before_seen : behind_seen) = true;
    after.umask = before.umask;
    EXPECT_EQ(after.caught, before.caught);
    EXPECT_EQ(after.ignored, before.ignored);
    EXPECT_EQ(after.blocked, before.blocked);
    EXPECT_EQ(after.threads, before.threads);
    EXPECT_EQ(belongings(child.pid()), own);

    // A new keeper finds what the dead one left, and nothing stays when it goes.
    auto task = FrozenTask::freeze(child.pid());
    ASSERT_TRUE(task.has_value()) << task.error().text();
    auto session = Session::infect(*task);
    ASSERT_TRUE(session.has_value()) << session.error().text();
    ASSERT_TRUE(session->leave(*task).has_value());
    task->resume();
    EXPECT_FALSE(has_something_of_relive(child.pid())) << task::read_proc(child.pid(), "maps").value();
    ASSERT_EQ(child.ask('y'), 'y');
    EXPECT_EQ(belongings(child.pid()), own);
    if (WIFEXITED(status)) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
      break;
    }
  }
  EXPECT_TRUE(before_seen);
  EXPECT_TRUE(behind_seen);
}

TEST(OrphanTest, AKilledKeeperLeavesTheTaskBeforeOrBehindTheRollbackAtEveryStep) { kill_the_keeper_everywhere(echo); }

TEST(OrphanTest, SoItDoesWhereTheLeaderStandsOnAStackOfItsOwnMaking) {
  kill_the_keeper_everywhere(echo_on_a_heap_stack);
}

TEST(OrphanTest, ALivingKeeperIsNotDisturbed) {
  const Child child(echo);
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t keeper = ::fork();
  if (keeper == 0) {
    auto task = FrozenTask::freeze(child.pid());
    if (!task || !Session::infect(*task)) ::_exit(1);
    task->resume();
    if (::write(ready[1], "r", 1) != 1) ::_exit(2);
    for (;;) ::pause();
  }
  char word = 0;
  ASSERT_EQ(::read(ready[0], &word, 1), 1);
  const std::string maps = task::read_proc(child.pid(), "maps").value();
  const auto try_it = [&] {
    auto task = FrozenTask::freeze(child.pid());
    return task ? Session::infect(*task) : std::unexpected(task.error());
  };
  const auto refused = try_it();
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().kind, ErrorKind::busy) << refused.error().text();
  EXPECT_NE(refused.error().text().find("process " + std::to_string(keeper)), std::string::npos)
      << refused.error().text();
  EXPECT_EQ(task::read_proc(child.pid(), "maps").value(), maps);
  EXPECT_EQ(child.ask('x'), 'x');
  ::kill(keeper, SIGKILL);
  ::waitpid(keeper, nullptr, 0);
  const auto now = try_it();
  EXPECT_TRUE(now.has_value()) << now.error().text();
  EXPECT_EQ(child.ask('x'), 'x');
  ::close(ready[0]);
  ::close(ready[1]);
}

}  // namespace
}  // namespace relive
