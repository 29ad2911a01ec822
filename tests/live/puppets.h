// Puppets: processes below a subreaper of their own that make one system call at a time, as they are told; and a tree
// of them that does as the simulator of the kernel's rules does (tests/unit/kernel_simulator.h), and is compared with
// it.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "tests/live/puppet.h"
#include "tests/unit/random_programs.h"

namespace relive::testing {

inline int or_errno(long result) { return result < 0 ? -errno : static_cast<int>(result); }

inline UniqueFd open_pidfd(pid_t pid) { return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

// Readable: it is dead.
inline void await_end(int pidfd) {
  pollfd wait{.fd = pidfd, .events = POLLIN, .revents = 0};
  while (::poll(&wait, 1, -1) != 1) {
  }
}

// The words of /proc/PID/stat behind the name: words[N - 3] is field N of proc_pid_stat(5). Empty: there is none.
inline std::vector<std::string> stat_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(file, line);
  const auto name_end = line.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream words(line.substr(name_end + 2));
  return {std::istream_iterator<std::string>(words), {}};
}

// The subreaper, its session and group, and the first puppet. It waits for whatever it gets, and ends all of them when
// the stage is destroyed, or whoever owns it is dead.
class Stage {
 public:
  Stage() {
    std::array<int, 2> down{};
    std::array<int, 2> up{};
    if (::pipe2(down.data(), O_CLOEXEC) != 0 || ::pipe2(up.data(), O_CLOEXEC) != 0) ::abort();
    master_ = ::fork();
    if (master_ == 0) {
      ::close(down[1]);
      ::close(up[0]);
      direct(down[0], up[1]);
    }
    ::close(down[0]);
    ::close(up[1]);
    to_.reset(down[1]);
    from_.reset(up[0]);
    hear(root_);
    hear(order_);
  }
  ~Stage() {
    to_.reset();
    ::waitpid(master_, nullptr, 0);
  }
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  [[nodiscard]] pid_t master() const { return master_; }
  [[nodiscard]] pid_t root() const { return root_; }
  // Where a puppet's order lies, in the puppet.
  [[nodiscard]] std::uint64_t order() const { return order_; }
  // The master has waited for all that were dead when this was called.
  void wait_for_all() const {
    const char word = 'w';
    char answer = 0;
    if (::write(to_.get(), &word, 1) != 1 || ::read(from_.get(), &answer, 1) != 1) ::abort();
  }

  // The puppet sleeps until it gets an order, and has no order to carry out.
  void await_rest(pid_t puppet, int pidfd) const {
    [[maybe_unused]] const bool lives = await_rest(puppet, pidfd, nullptr);
  }
  // Has the puppet carry it out, and tells the result, or -errno. `pidfd`: the puppet's; where it dies meanwhile (exit)
  // the answer is 0.
  [[nodiscard]] int tell(pid_t puppet, int pidfd, PuppetOrder order) const {
    if (!await_rest(puppet, pidfd, nullptr)) return -ESRCH;  // newly born ones are on their way
    // All of it before it is to be done: a puppet may wake at any time.
    for (order.todo = 0; order.todo < 2; ++order.todo)
      if (!copy(puppet, order, SYS_process_vm_writev)) return -ESRCH;
    ::syscall(SYS_pidfd_send_signal, pidfd, SIGUSR2, nullptr, 0);
    return await_rest(puppet, pidfd, &order) ? static_cast<int>(order.result) : 0;
  }

 private:
  template <class T>
  void hear(T& value) const {
    if (::read(from_.get(), &value, sizeof value) != sizeof value) ::abort();
  }

  [[nodiscard]] bool copy(pid_t puppet, PuppetOrder& order, long call) const {
    iovec here{.iov_base = &order, .iov_len = sizeof order};
    iovec there{.iov_base = reinterpret_cast<void*>(order_), .iov_len = sizeof order};  // NOLINT: an address of its own
    return ::syscall(call, puppet, &here, 1, &there, 1, 0) == sizeof order;
  }
  // False: it is dead.
  bool await_rest(pid_t puppet, int pidfd, PuppetOrder* last) const {
    PuppetOrder now{};
    for (now.todo = 1; now.todo != 0; ::sched_yield()) {
      if (copy(puppet, now, SYS_process_vm_readv)) continue;
      await_end(pidfd);
      return false;
    }
    // Once more: the kernel copies in any order, so the first copy may have an answer that was not yet written.
    if (last == nullptr || copy(puppet, *last, SYS_process_vm_readv)) return true;
    await_end(pidfd);
    return false;
  }

  [[noreturn]] static void direct(int in, int out) {
    ::setsid();
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    ::signal(SIGUSR1, SIG_IGN);  // an exit signal of some; it would end a parent
    ::signal(SIGHUP, SIG_IGN);   // comes to our group, which puppets are in, when it is orphaned with a stopped member
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGCHLD);
    ::sigprocmask(SIG_BLOCK, &ends, nullptr);
    const int ended = ::signalfd(-1, &ends, SFD_CLOEXEC);
    begin(out);
    for (char word = 0;;) {
      std::array<pollfd, 2> waits{pollfd{.fd = in, .events = POLLIN, .revents = 0},
                                  pollfd{.fd = ended, .events = POLLIN, .revents = 0}};
      ::poll(waits.data(), waits.size(), -1);
      signalfd_siginfo info{};
      if (waits[1].revents != 0 && ::read(ended, &info, sizeof info) < 0) ::_exit(95);
      while (::waitpid(-1, nullptr, WNOHANG | __WALL) > 0) {
      }
      if (waits[0].revents == 0) continue;
      if (::read(in, &word, 1) != 1) end_all();
      if (::write(out, &word, 1) != 1) end_all();
    }
  }
  // The first puppet tells where its order lies.
  static void begin(int out) {
    std::array<int, 2> channel{};
    if (::pipe2(channel.data(), O_CLOEXEC) != 0) ::_exit(98);
    const pid_t pid = ::fork();
    if (pid == 0) {
      const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
      for (int fd = 0; fd < 3; ++fd) ::dup2(nothing, fd);
      ::dup2(channel[1], 3);
      ::syscall(SYS_close_range, 4, ~0U, 0);
      sigset_t none;
      sigemptyset(&none);
      ::sigprocmask(SIG_SETMASK, &none, nullptr);
      ::signal(SIGHUP, SIG_DFL);
      ::execl(RELIVE_PUPPET, "puppet", nullptr);
      ::_exit(97);
    }
    ::close(channel[1]);
    std::uint64_t where = 0;
    if (::read(channel[0], &where, sizeof where) != sizeof where) ::_exit(96);
    ::close(channel[0]);
    if (::write(out, &pid, sizeof pid) != sizeof pid || ::write(out, &where, sizeof where) != sizeof where) ::_exit(94);
  }
  [[noreturn]] static void end_all() {
    for (;;) {  // orphans come to us as well
      std::ifstream children(fmt::format("/proc/self/task/{}/children", ::getpid()));
      for (pid_t pid = 0; children >> pid;) ::kill(pid, SIGKILL);
      if (::waitpid(-1, nullptr, __WALL) < 0) ::_exit(0);
    }
  }

  pid_t master_ = -1;
  pid_t root_ = -1;
  std::uint64_t order_ = 0;
  UniqueFd to_;
  UniqueFd from_;
};

// One tree, by the simulator and by puppets. In the simulator init (1) stands for the master, which is a subreaper,
// leads its session and group, and waits for all it gets.
class PuppetTree {
 public:
  static constexpr pid_t kRoot = 100;  // in the simulator

  PuppetTree() {
    kernel_.set_last_pid(kRoot - 1);
    kernel_.clone(1, {.set_tid = kRoot});
    kernel_.put_into_tree(kRoot);
    born(1, stage_.master());
    born(kRoot, stage_.root());
  }

  [[nodiscard]] KernelSimulator& kernel() { return kernel_; }
  [[nodiscard]] pid_t real(pid_t simulated) const {
    const auto found = real_.find(simulated);
    return found == real_.end() ? -1 : found->second;
  }
  [[nodiscard]] int pidfd(pid_t simulated) const { return pidfds_.at(simulated).get(); }
  [[nodiscard]] std::uint64_t order() const { return stage_.order(); }
  void wait_for_all() const { stage_.wait_for_all(); }

  // Has the kernel make the call that the simulator has made; `expected`: what that answered. Empty: they agree.
  std::string make(const ProgramCall& call, int expected) {
    const int result = by_puppet(call);
    if (call.kind == ProgramCall::Kind::clone && result > 0 && expected > 0) born(expected, result);
    stage_.wait_for_all();  // as the simulated init does
    const bool same = expected < 0 || result < 0 ? expected == result : (expected == 0 || real(expected) == result);
    if (!same) return fmt::format("{}: expected {}, the kernel says {}", name(call), expected, result);
    if (auto other = compare(); !other.empty()) return fmt::format("after {}: {}", name(call), other);
    return {};
  }
  // A system call that the simulator knows nothing of.
  int tell(pid_t simulated, const PuppetOrder& order) const {
    return stage_.tell(real(simulated), pidfd(simulated), order);
  }

  void await_rest(pid_t simulated) const { stage_.await_rest(real(simulated), pidfd(simulated)); }

  // What differs from the simulated tree, by /proc; empty if nothing does.
  [[nodiscard]] std::string compare() const {
    for (const auto& [pid, real_pid] : real_) {
      if (pid == 1) continue;
      const auto words = stat_of(real_pid);
      const SimulatedTask* task = kernel_.find(pid);
      if (task == nullptr || words.size() < 36) {
        if (task == nullptr && (words.empty() || !is_ours(words))) continue;
        return fmt::format("{} ({}) {}", pid, real_pid,
                           task == nullptr ? fmt::format("is there: {} parent {} group {} session {}", words[0],
                                                         words[1], words[2], words[3])
                                           : "is gone");
      }
      const auto expected = fmt::format("{} parent {} group {} session {} signal {}", task->zombie ? "dead" : "alive",
                                        real(task->parent), real(task->group), real(task->session), task->exit_signal);
      const auto found = fmt::format("{} parent {} group {} session {} signal {}", words[0] == "Z" ? "dead" : "alive",
                                     words[1], words[2], words[3], words[35]);
      if (expected != found)
        return fmt::format("{} ({}): expected {}; the kernel says {}", pid, real_pid, expected, found);
    }
    return {};
  }

  // The simulated tree was put back: tasks may have been made again.
  void look_again() {
    for (const auto& [pid, task] : kernel_.tasks()) pidfds_[pid] = open_pidfd(real(pid));
  }

 private:
  // A number that is free again may be a stranger's by now.
  [[nodiscard]] bool is_ours(const std::vector<std::string>& stat) const {
    return std::ranges::any_of(kernel_.tasks(),
                               [&](const auto& task) { return std::to_string(real(task.first)) == stat[1]; });
  }
  static std::string name(const ProgramCall& call) {
    constexpr std::array<std::string_view, 9> kNames{"none", "clone", "setsid", "setpgid", "subreaper",
                                                     "exec", "exit",  "kill",   "wait"};
    return fmt::format("{} by {}, target {}, group {}", kNames.at(static_cast<std::size_t>(call.kind)), call.caller,
                       call.target, call.group);
  }

  void born(pid_t simulated, pid_t real) {
    real_[simulated] = real;
    pidfds_[simulated] = open_pidfd(real);
  }

  int by_puppet(const ProgramCall& call) {
    using Kind = ProgramCall::Kind;
    if (call.kind == Kind::kill) {
      const int result = or_errno(::syscall(SYS_pidfd_send_signal, pidfd(call.target), SIGKILL, nullptr, 0));
      await_end(pidfd(call.target));
      return result;
    }
    const auto number = [&](pid_t simulated) {
      return static_cast<std::uint64_t>(simulated == 0 ? 0 : real(simulated));
    };
    PuppetOrder order{};
    const auto set = [&](long call_number, std::initializer_list<std::uint64_t> arguments) {
      order.number = call_number;
      std::ranges::copy(arguments, std::begin(order.arguments));
    };
    switch (call.kind) {
      case Kind::clone: {
        clone_args args{};
        if (call.clone.parent) args.flags |= CLONE_PARENT;
        if (call.clone.files) args.flags |= CLONE_FILES;
        if (call.clone.file_system) args.flags |= CLONE_FS;
        args.exit_signal = static_cast<std::uint64_t>(call.clone.exit_signal);
        static_assert(sizeof args <= sizeof order.text);
        std::memcpy(order.text, &args, sizeof args);
        set(SYS_clone3, {stage_.order() + offsetof(PuppetOrder, text), sizeof args});
        break;
      }
      case Kind::setsid:
        set(SYS_setsid, {});
        break;
      case Kind::setpgid:
        set(SYS_setpgid, {number(call.target), number(call.group)});
        break;
      case Kind::subreaper:
        set(SYS_prctl, {PR_SET_CHILD_SUBREAPER, static_cast<std::uint64_t>(call.value)});
        break;
      case Kind::exit:
        set(SYS_exit_group, {static_cast<std::uint64_t>(call.value)});
        break;
      case Kind::wait:
        set(SYS_wait4, {number(call.target), 0, WNOHANG | __WALL, 0});
        break;
      case Kind::none:
      case Kind::exec:
      case Kind::kill:
        return 0;
    }
    return tell(call.caller, order);
  }

  Stage stage_;
  KernelSimulator kernel_;
  std::map<pid_t, pid_t> real_;  // of all that ever were
  std::map<pid_t, UniqueFd> pidfds_;
};

}  // namespace relive::testing
