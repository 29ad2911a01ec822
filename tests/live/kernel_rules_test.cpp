// The simulator of the kernel's rules (tests/unit/kernel_simulator.h) against the kernel that runs: random programs are
// carried out by both, one system call at a time, by processes below a subreaper of their own. Results, error numbers
// and what /proc tells must be the same.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <string>

#include "tests/live/puppets.h"

namespace relive::testing {
namespace {

constexpr int kPrograms = 200;
constexpr int kCalls = 60;

pid_t raw_clone(std::uint64_t flags, int exit_signal, pid_t wanted = 0) {
  clone_args args{};
  args.flags = flags;
  args.exit_signal = static_cast<std::uint64_t>(exit_signal);
  if (wanted != 0) {
    args.set_tid = reinterpret_cast<std::uint64_t>(&wanted);
    args.set_tid_size = 1;
  }
  return static_cast<pid_t>(::syscall(SYS_clone3, &args, sizeof args));
}

// One random program, by the simulator and by puppets.
std::string compare_program(std::uint64_t seed) {
  RandomProgram::Random random(seed);
  PuppetTree tree;
  ProgramTaste taste{.most = 12, .root_is_calm = random() % 2 == 0};
  taste.shares = taste.execs = false;
  RandomProgram program(tree.kernel(), random, PuppetTree::kRoot, taste);
  for (int i = 0; i < kCalls; ++i) {
    int expected = 0;
    const ProgramCall call = program.call(expected);
    if (call.kind == ProgramCall::Kind::none) continue;
    if (auto failed = tree.make(call, expected); !failed.empty()) return fmt::format("call {}: {}", i, failed);
  }
  return {};
}

// Runs `body` in a subreaper that leads its own session; what it answers is the failure.
template <class Body>
std::string in_subreaper(const Body& body) {
  int channel[2];
  if (::pipe2(channel, O_CLOEXEC) != 0) return "pipe2";
  const pid_t test = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != test) ::_exit(1);
    ::close(channel[0]);
    ::setsid();
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    ::signal(SIGUSR1, SIG_IGN);  // an exit signal of some; it would end a parent
    const std::string text = body();
    const bool told = ::write(channel[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
    ::_exit(told ? 0 : 1);
  }
  ::close(channel[1]);
  std::string text;
  std::array<char, 4096> part{};
  for (ssize_t n = 0; (n = ::read(channel[0], part.data(), part.size())) > 0;) {
    text.append(part.data(), static_cast<std::size_t>(n));
  }
  ::close(channel[0]);
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (status != 0) text += fmt::format(" (status {})", status);
  return text;
}

TEST(KernelRulesTest, TheSimulatorDoesAsTheKernel) {
  constexpr std::uint64_t kSeed = 20260101;
  for (std::uint64_t seed = kSeed; seed < kSeed + kPrograms; ++seed)
    ASSERT_EQ(compare_program(seed), "") << "seed " << seed;
}

// free_pid() in kernel/pid.c: a number is taken while any task, a zombie too, has it as pid, group or session.
TEST(KernelRulesTest, TheNumberOfADeadLeaderStaysTaken) {
  const auto failed = in_subreaper([]() -> std::string {
    const pid_t leader = raw_clone(0, SIGCHLD);
    if (leader == 0) {
      ::setsid();
      if (raw_clone(CLONE_PARENT, 0) == 0) ::pause();  // a member of the session, our child
      ::_exit(0);
    }
    pid_t member = 0;
    int status = 0;
    if (::waitpid(leader, &status, 0) != leader) return "the leader did not end";
    for (pid_t pid = leader + 1; member == 0 && pid < leader + 1000; ++pid) {
      if (const auto words = stat_of(pid); !words.empty() && words[3] == std::to_string(leader)) member = pid;
    }
    const auto again = [&] {
      const pid_t pid = raw_clone(0, SIGCHLD, leader);
      if (pid == 0) ::_exit(0);
      return or_errno(pid);
    };
    const int while_alive = again();
    if (while_alive == -EPERM) return "EPERM";
    ::kill(member, SIGKILL);
    siginfo_t info{};
    ::waitid(P_PID, static_cast<id_t>(member), &info, WEXITED | WNOWAIT | __WALL);
    const int while_zombie = again();
    ::waitpid(member, nullptr, __WALL);
    const int then = again();
    ::waitpid(leader, nullptr, 0);
    if (while_alive == -EEXIST && while_zombie == -EEXIST && then == leader) return {};
    return fmt::format("member alive: {}, a zombie: {}, gone: {}", while_alive, while_zombie, then);
  });
  if (failed == "EPERM") GTEST_SKIP() << "needs root: to choose a pid (CAP_CHECKPOINT_RESTORE)";
  EXPECT_EQ(failed, "");
}

// clone3(2): CLONE_PARENT takes the caller's exit signal, and none of its own.
TEST(KernelRulesTest, ASiblingHasItsForkersExitSignal) {
  EXPECT_EQ(in_subreaper([]() -> std::string {
              const pid_t child = raw_clone(0, SIGUSR1);
              if (child == 0) {
                if (raw_clone(CLONE_PARENT, SIGCHLD) >= 0 || errno != EINVAL) ::_exit(1);
                const pid_t sibling = raw_clone(CLONE_PARENT, 0);
                if (sibling == 0) ::_exit(0);
                const auto words = stat_of(sibling);  // a zombie is fine, too
                ::_exit(words.size() > 35 && words[35] == std::to_string(SIGUSR1) ? 0 : 2);
              }
              int status = 0;
              ::waitpid(child, &status, __WALL);
              ::waitpid(-1, nullptr, __WALL);
              return status == 0 ? std::string() : fmt::format("status {}", status);
            }),
            "");
}

}  // namespace
}  // namespace relive::testing
