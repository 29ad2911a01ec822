// The simulator of the kernel's rules (tests/unit/kernel_simulator.h) against the kernel that runs: random programs are
// carried out by both, one system call at a time, by processes below a subreaper of their own. Results, error numbers
// and what /proc tells must be the same.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/sched.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "tests/unit/random_programs.h"

namespace relive::testing {
namespace {

constexpr std::size_t kPuppets = 48;  // that one program may ever have
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

int or_errno(long result) { return result < 0 ? -errno : static_cast<int>(result); }

// What a puppet is told to do, and what came of it. In memory that all of them share.
struct Order {
  ProgramCall::Kind kind;
  std::uint64_t flags;
  int exit_signal;
  std::size_t child;  // the slot of the one to be forked
  pid_t target;
  pid_t group;
  int value;
  int result;
};

struct Slot {
  UniqueFd command;
  UniqueFd reply;
};

// Processes that do what they are told. They end when their master does.
class Puppets {
 public:
  Puppets() : master_(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0))) {
    void* memory = ::mmap(nullptr, sizeof(Order) * kPuppets, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    orders_ = static_cast<Order*>(memory);
    for (Slot& slot : slots_) {
      slot.command.reset(::eventfd(0, 0));
      slot.reply.reset(::eventfd(0, 0));
    }
  }
  ~Puppets() { ::munmap(orders_, sizeof(Order) * kPuppets); }
  Puppets(const Puppets&) = delete;
  Puppets& operator=(const Puppets&) = delete;

  // The first one, a child of the master.
  pid_t begin() {
    const pid_t pid = raw_clone(0, SIGCHLD);
    if (pid == 0) obey(0);
    return pid;
  }

  // Returns when it is done; an order to exit, when the process is dead.
  int tell(std::size_t slot, const Order& order, int pidfd) {
    orders_[slot] = order;
    ring(slots_[slot].command.get());
    if (order.kind == ProgramCall::Kind::exit) {
      await(pidfd);
      return 0;
    }
    hear(slots_[slot].reply.get());
    return orders_[slot].result;
  }

  static void await(int pidfd) {
    pollfd wait{.fd = pidfd, .events = POLLIN, .revents = 0};
    while (::poll(&wait, 1, -1) != 1) {
    }
  }

 private:
  static void ring(int fd) {
    const std::uint64_t one = 1;
    if (::write(fd, &one, sizeof one) != sizeof one) ::_exit(98);
  }
  static void hear(int fd) {
    std::uint64_t count = 0;
    if (::read(fd, &count, sizeof count) != sizeof count) ::_exit(97);
  }

  [[noreturn]] void obey(std::size_t slot) {
    for (;;) {
      std::array<pollfd, 2> waits{pollfd{.fd = slots_[slot].command.get(), .events = POLLIN, .revents = 0},
                                  pollfd{.fd = master_.get(), .events = POLLIN, .revents = 0}};
      ::poll(waits.data(), waits.size(), -1);
      if (waits[1].revents != 0) ::_exit(96);
      hear(slots_[slot].command.get());
      const Order order = orders_[slot];  // a child may start when its parent has the next one already
      const int result = carry_out(order);
      if (order.kind == ProgramCall::Kind::clone && result == 0) {
        slot = order.child;  // its parent answers
        continue;
      }
      orders_[slot].result = result;
      ring(slots_[slot].reply.get());
    }
  }

  static int carry_out(const Order& order) {
    using Kind = ProgramCall::Kind;
    switch (order.kind) {
      case Kind::clone:
        return or_errno(raw_clone(order.flags, order.exit_signal));
      case Kind::setsid:
        return or_errno(::syscall(SYS_setsid));
      case Kind::setpgid:
        return or_errno(::syscall(SYS_setpgid, order.target, order.group));
      case Kind::subreaper:
        return or_errno(::prctl(PR_SET_CHILD_SUBREAPER, order.value));
      case Kind::exit:
        ::_exit(order.value);
      case Kind::wait:
        return or_errno(::syscall(SYS_wait4, order.target, nullptr, WNOHANG | __WALL, nullptr));
      default:
        return 0;
    }
  }

  UniqueFd master_;
  Order* orders_ = nullptr;
  std::array<Slot, kPuppets> slots_;
};

// What /proc/PID/stat tells of a task; empty: there is none.
std::vector<std::string> stat_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(file, line);
  const auto name_end = line.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream words(line.substr(name_end + 2));
  return {std::istream_iterator<std::string>(words), {}};
}

// One random program, by the simulator and by puppets. In the simulator init (1) stands for the master, which is a
// subreaper, leads its session and group, and waits for all it gets.
class Comparison {
 public:
  explicit Comparison(std::uint64_t seed) : random_(seed) {
    kernel_.set_last_pid(kRoot - 1);
    kernel_.clone(1, {.set_tid = kRoot});
    kernel_.put_into_tree(kRoot);
    born(1, ::getpid());
    born(kRoot, puppets_.begin());
  }
  ~Comparison() {
    for (const auto& [pid, fd] : real_fds_) {
      if (pid != 1) ::syscall(SYS_pidfd_send_signal, fd.get(), SIGKILL, nullptr, 0);
    }
    for (;;) {  // orphans come to us as well
      std::ifstream children(fmt::format("/proc/self/task/{}/children", ::getpid()));
      for (pid_t pid = 0; children >> pid;) ::kill(pid, SIGKILL);
      if (::waitpid(-1, nullptr, __WALL) < 0) break;
    }
  }
  Comparison(const Comparison&) = delete;
  Comparison& operator=(const Comparison&) = delete;

  std::string run() {
    ProgramTaste taste{.most = 12, .root_is_calm = random_() % 2 == 0};
    taste.shares = taste.execs = false;
    RandomProgram program(kernel_, random_, kRoot, taste);
    for (int i = 0; i < kCalls && slots_.size() < kPuppets; ++i) {
      int expected = 0;
      const ProgramCall call = program.call(expected);
      if (call.kind == ProgramCall::Kind::none) continue;
      const int result = by_puppet(call);
      const bool forked = call.kind == ProgramCall::Kind::clone && result > 0;
      if (forked && expected > 0) born(expected, result);
      while (::waitpid(-1, nullptr, WNOHANG | __WALL) > 0) {  // as the simulated init does
      }
      const bool same = expected < 0 || result < 0 ? expected == result : (expected == 0 || real(expected) == result);
      if (!same) return fmt::format("call {} ({}): expected {}, the kernel says {}", i, name(call), expected, result);
      if (auto other = compare(); !other.empty()) return fmt::format("after call {} ({}): {}", i, name(call), other);
    }
    return {};
  }

 private:
  static constexpr pid_t kRoot = 100;

  static std::string name(const ProgramCall& call) {
    return fmt::format("kind {} by {}, target {}, group {}", static_cast<int>(call.kind), call.caller, call.target,
                       call.group);
  }

  void born(pid_t simulated, pid_t real) {
    real_[simulated] = real;
    if (simulated != 1) slots_.emplace(simulated, slots_.size());
    real_fds_[simulated].reset(static_cast<int>(::syscall(SYS_pidfd_open, real, 0)));
  }
  [[nodiscard]] pid_t real(pid_t simulated) const {
    const auto found = real_.find(simulated);
    return found == real_.end() ? -1 : found->second;
  }

  int by_puppet(const ProgramCall& call) {
    if (call.kind == ProgramCall::Kind::kill) {
      const int fd = real_fds_[call.target].get();
      const int result = or_errno(::syscall(SYS_pidfd_send_signal, fd, SIGKILL, nullptr, 0));
      Puppets::await(fd);
      return result;
    }
    Order order{};
    order.kind = call.kind;
    order.flags = call.clone.parent ? CLONE_PARENT : 0;
    order.exit_signal = call.clone.exit_signal;
    order.child = slots_.size();
    order.target = call.target == 0 ? 0 : real(call.target);
    order.group = call.group == 0 ? 0 : real(call.group);
    order.value = call.value;
    return puppets_.tell(slots_.at(call.caller), order, real_fds_[call.caller].get());
  }

  std::string compare() const {
    for (const auto& [pid, real_pid] : real_) {
      if (pid == 1) continue;
      const auto words = stat_of(real_pid);
      const SimulatedTask* task = kernel_.find(pid);
      if (task == nullptr || words.size() < 36) {
        if (task == nullptr && words.empty()) continue;
        return fmt::format("{} {}", pid, task == nullptr ? "lives" : "is gone");
      }
      const auto expected = fmt::format("{} parent {} group {} session {} signal {}", task->zombie ? "dead" : "alive",
                                        real(task->parent), real(task->group), real(task->session), task->exit_signal);
      const auto found = fmt::format("{} parent {} group {} session {} signal {}", words[0] == "Z" ? "dead" : "alive",
                                     words[1], words[2], words[3], words[35]);
      if (expected != found) return fmt::format("{}: expected {}; the kernel says {}", pid, expected, found);
    }
    return {};
  }

  RandomProgram::Random random_;
  KernelSimulator kernel_;
  Puppets puppets_;
  std::map<pid_t, pid_t> real_;
  std::map<pid_t, std::size_t> slots_;
  std::map<pid_t, UniqueFd> real_fds_;
};

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
  EXPECT_EQ(in_subreaper([] {
              for (std::uint64_t seed = kSeed; seed < kSeed + kPrograms; ++seed) {
                if (auto failed = Comparison(seed).run(); !failed.empty())
                  return fmt::format("seed {}: {}", seed, failed);
              }
              return std::string();
            }),
            "");
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
