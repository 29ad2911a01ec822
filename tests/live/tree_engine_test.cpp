// Random programs of up to 40 tasks, rolled back by the engine: snapshot at a random point, on at random, back, and all
// that /proc tells must be as it was; then on again, beside the simulator of the kernel's rules, which finds what /proc
// does not tell. What is refused by name must have changed nothing.
//
// RELIVE_TREE_SEED, RELIVE_TREE_CASES: where to begin, and how many. RELIVE_TREE_SHOW: each seed is named as it
// begins; where it is "plan", what each rollback is going to do is, too.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>

#include "live/puppets.h"
#include "live/tree_look.h"
#include "rollback/engine.h"

namespace relive::testing {
namespace {

constexpr int kMostCalls = 120;
constexpr int kMostTasks = 40;
constexpr int kMostRounds = 3;

std::uint64_t number(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

bool is_plan_shown() {
  const char* shown = std::getenv("RELIVE_TREE_SHOW");
  return shown != nullptr && std::string_view(shown) == "plan";
}

std::string text_of(const std::vector<std::string>& lines) {
  constexpr std::size_t kMost = 12;
  std::string out;
  for (std::size_t at = 0; at < std::min(lines.size(), kMost); ++at) out += "\n    " + lines[at];
  if (lines.size() > kMost) out += fmt::format("\n    and {} more", lines.size() - kMost);
  return out;
}

// What a task does for itself: nothing that the simulator knows of.
class Deeds {
 public:
  Deeds(RandomProgram::Random& random, std::uint64_t order)
      : random_(random), text_(order + offsetof(PuppetOrder, text)) {}

  PuppetOrder any() {
    PuppetOrder order{};
    const auto call = [&](long name, std::initializer_list<std::uint64_t> arguments) {
      order.number = name;
      std::ranges::copy(arguments, std::begin(order.arguments));
    };
    const auto text = [&](const auto& value) { std::memcpy(order.text, &value, sizeof value); };
    constexpr std::uint64_t kMaskSize = 8;
    const std::uint64_t spot = kSpots + below(4) * kSpot;
    switch (below(20)) {
      case 0:
      case 1:
      case 2:
        call(kPuppetBump, {below(kPuppetPages)});
        break;
      case 3:
      case 4: {
        std::uint64_t mask = bit(SIGUSR2);
        for (const int signal : {SIGCHLD, SIGURG, SIGWINCH})
          if (below(2) == 0) mask |= bit(signal);
        text(mask);
        call(SYS_rt_sigprocmask, {SIG_SETMASK, text_, 0, kMaskSize});
        break;
      }
      case 5:
        call(SYS_umask, {below(0777)});
        break;
      case 6: {
        const auto name = fmt::format("task {}", below(1000));
        std::memcpy(order.text, name.c_str(), name.size() + 1);
        call(SYS_prctl, {PR_SET_NAME, text_});
        break;
      }
      case 7:
        std::strcpy(order.text, "/proc/self/exe");  // NOLINT: it fits
        call(SYS_openat, {static_cast<std::uint64_t>(AT_FDCWD), text_, O_RDONLY, 0});
        break;
      case 8:
        call(SYS_eventfd2, {below(100), 0});
        break;
      case 9:
        std::strcpy(order.text, "a memfd");  // NOLINT: it fits
        call(SYS_memfd_create, {text_, below(2)});
        break;
      case 10:
        call(SYS_pipe2, {text_, below(2) == 0 ? static_cast<std::uint64_t>(O_NONBLOCK) : 0});
        break;
      case 11:
        call(SYS_close, {descriptor()});
        break;
      case 12:
        call(SYS_dup3, {descriptor(), descriptor(), 0});
        break;
      case 13:
        call(SYS_lseek, {descriptor(), below(5000), SEEK_SET});
        break;
      case 14:
        std::strcpy(order.text, below(2) == 0 ? "/" : "/proc");  // NOLINT: it fits
        call(SYS_chdir, {text_});
        break;
      case 15:
        call(SYS_mmap, {spot, kSpot, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
                        ~std::uint64_t{0}, 0});
        break;
      case 16:
        call(SYS_getrandom, {spot, kSpot / 2, 0});  // EFAULT where nothing is mapped
        break;
      case 17:
        if (below(2) == 0)
          call(SYS_munmap, {spot, kSpot});
        else
          call(SYS_mprotect, {spot, kSpot / 2, PROT_READ});
        break;
      case 18: {
        const std::array<std::uint64_t, 4> action{below(2)};  // SIG_DFL, SIG_IGN; flags, restorer, mask
        text(action);
        call(SYS_rt_sigaction, {SIGURG, text_, 0, kMaskSize});
        break;
      }
      default:
        call(SYS_getpid, {});
        break;
    }
    return order;
  }
  // To be sent to a task: no default action of it does anything.
  int harmless_signal() { return below(2) == 0 ? SIGURG : SIGWINCH; }

 private:
  static constexpr std::uint64_t kSpots = 0x200000000;
  static constexpr std::uint64_t kSpot = 0x4000;
  static std::uint64_t bit(int signal) { return std::uint64_t{1} << (signal - 1); }
  std::uint64_t below(std::uint64_t end) { return random_() % end; }
  std::uint64_t descriptor() { return 3 + below(8); }

  RandomProgram::Random& random_;
  std::uint64_t text_;
};

struct Statistics {
  std::uint64_t cases = 0, snapshots_refused = 0, root_ended = 0, done = 0, refused = 0, forked = 0, tasks = 0,
                ended = 0;
  std::map<std::string, std::uint64_t> reasons;

  // A reason with its numbers taken out.
  void count(std::string_view reason) {
    std::string kind;
    for (const char c : reason) {
      if (c < '0' || c > '9')
        kind += c;
      else if (kind.empty() || kind.back() != '#')
        kind += '#';
    }
    ++reasons[kind.substr(0, 160)];
  }
  void print(std::uint64_t seed, std::chrono::steady_clock::duration took) const {
    const std::uint64_t rollbacks = done + refused;
    std::cout << fmt::format(
        "{} cases from seed {} in {} s: {} rollbacks done ({:.1f} tasks each; {} made tasks again), {} refused ({:.1f} "
        "%), "
        "{} snapshots refused, {} roots had ended\n",
        cases, seed, std::chrono::duration_cast<std::chrono::seconds>(took).count(), done,
        static_cast<double>(tasks) / static_cast<double>(std::max<std::uint64_t>(done, 1)), forked, refused,
        100.0 * static_cast<double>(refused) / static_cast<double>(std::max<std::uint64_t>(rollbacks, 1)),
        snapshots_refused, root_ended);
    for (const auto& [reason, times] : reasons) std::cout << fmt::format("  {:>6}  {}\n", times, reason);
  }
};

// What was, to be compared with what is then.
struct Moment {
  KernelSimulator kernel;
  std::set<pid_t> pids;  // of the tree, in the simulator
  TreeLook look;
};

class Case {
 public:
  Case(std::uint64_t seed, Statistics& statistics)
      : random_(seed), statistics_(statistics), deeds_(random_, tree_.order()) {
    taste_.most = 2 + static_cast<std::size_t>(below(kMostTasks - 1));
    taste_.shares = below(4) == 0;
    taste_.shares_memory = taste_.execs = false;
    taste_.root_is_calm = below(10) != 0;
    if (below(2) == 0) first_.push_back({.kind = ProgramCall::Kind::setsid, .caller = PuppetTree::kRoot});
    if (below(2) == 0)
      first_.push_back({.kind = ProgramCall::Kind::subreaper, .caller = PuppetTree::kRoot, .value = 1});
  }

  // Empty, or what went wrong.
  std::string run() {
    if (auto failed = go_on(1 + below(kMostCalls)); !failed.empty()) return "before the snapshot: " + failed;
    if (tree_.kernel().find(PuppetTree::kRoot) == nullptr) return ended();
    const auto stopped = stop_some();
    const Moment before = look(descendants());
    auto engine = rollback::Engine::open({tree_.real(PuppetTree::kRoot)});
    if (!engine) return "open: " + engine.error().text();
    const auto taken = (*engine)->snapshot({.name = "here", .replace = false, .tracker = {}});
    if (auto failed = expect_same("by the snapshot", before, look(before.pids)); !failed.empty()) return failed;
    if (auto failed = let_go_on(stopped); !failed.empty()) return "after the snapshot: " + failed;
    if (!taken) {
      if (taken.error().kind != ErrorKind::refused) return "snapshot: " + taken.error().text();
      ++statistics_.snapshots_refused;
      statistics_.count("snapshot: " + taken.error().what);
      return {};
    }
    for (int rounds = 1 + below(kMostRounds); rounds > 0; --rounds) {
      if (auto failed = go_on(below(kMostCalls)); !failed.empty()) return "since: " + failed;
      if (tree_.kernel().find(PuppetTree::kRoot) == nullptr) return ended();
      if (auto failed = roll_back(**engine, before); !failed.empty()) return failed;
      if (auto failed = tree_.compare(); !failed.empty()) return "after the rollback: " + failed;
    }
    if (auto failed = go_on(below(kMostCalls)); !failed.empty()) return "after the last rollback: " + failed;
    return {};
  }

 private:
  int below(int end) { return static_cast<int>(random_() % static_cast<unsigned>(end)); }
  std::string ended() {
    ++statistics_.root_ended;
    return {};
  }

  // Calls that the simulator knows, and deeds that it does not.
  std::string go_on(int calls) {
    RandomProgram program(tree_.kernel(), random_, PuppetTree::kRoot, taste_);
    for (const ProgramCall& call : std::exchange(first_, {}))
      if (auto failed = tree_.make(call, program.make(call)); !failed.empty()) return failed;
    for (int i = 0; i < calls; ++i) {
      int expected = 0;
      const ProgramCall call = program.call(expected);
      if (call.kind != ProgramCall::Kind::none)
        if (auto failed = tree_.make(call, expected); !failed.empty()) return failed;
      do_something();
    }
    return {};
  }
  void do_something() {
    std::vector<pid_t> able;
    for (const auto& [pid, task] : tree_.kernel().tasks())
      if (pid != 1 && tree_.kernel().runnable(pid)) able.push_back(pid);
    if (able.empty()) return;
    const pid_t pid = able[static_cast<std::size_t>(below(static_cast<int>(able.size())))];
    if (below(10) == 0)
      ::syscall(SYS_pidfd_send_signal, tree_.pidfd(pid), deeds_.harmless_signal(), nullptr, 0);
    else [[maybe_unused]]
      const int result = tree_.tell(pid, deeds_.any());
  }

  // The tree as the engine takes it: the root and its descendants, and whoever else `also` are, with theirs.
  [[nodiscard]] std::set<pid_t> descendants(std::set<pid_t> also = {}) {
    const auto& tasks = tree_.kernel().tasks();
    also.insert(PuppetTree::kRoot);
    for (std::size_t size = 0; size != also.size();) {
      size = also.size();
      for (const auto& [pid, task] : tasks)
        if (also.contains(task.parent)) also.insert(pid);
    }
    return also;
  }
  Moment look(const std::set<pid_t>& pids) {
    std::set<pid_t> real;
    for (const pid_t pid : pids) real.insert(tree_.real(pid));
    return {.kernel = tree_.kernel(), .pids = pids, .look = look_at_tree(real)};
  }
  static std::string expect_same(const std::string& by_whom, const Moment& before, const Moment& after) {
    const auto lines = unlike(before.look, after.look);
    return lines.empty() ? std::string() : "changed " + by_whom + ":" + text_of(lines);
  }

  std::vector<pid_t> stop_some() {
    std::vector<pid_t> stopped;
    if (below(3) != 0) return stopped;
    for (const pid_t pid : descendants()) {
      if (!tree_.kernel().runnable(pid) || below(6) != 0) continue;
      tree_.await_rest(pid);
      ::syscall(SYS_pidfd_send_signal, tree_.pidfd(pid), SIGSTOP, nullptr, 0);
      while (stat_of(tree_.real(pid)).at(0) != "T") ::sched_yield();
      stopped.push_back(pid);
    }
    return stopped;
  }
  // Nobody has let them go on before.
  [[nodiscard]] std::string let_go_on(const std::vector<pid_t>& stopped) const {
    std::string failed;
    for (const pid_t pid : stopped) {
      if (const auto stat = stat_of(tree_.real(pid)); stat.empty() || stat[0] != "T")
        failed = fmt::format("{} was stopped and is not now", tree_.real(pid));
      ::syscall(SYS_pidfd_send_signal, tree_.pidfd(pid), SIGCONT, nullptr, 0);
    }
    return failed;
  }

  // The tree now: with those of the snapshot that live on elsewhere.
  std::set<pid_t> living(const Moment& wanted) {
    std::set<pid_t> also;
    for (const pid_t pid : wanted.pids) {
      const auto* const then = wanted.kernel.find(pid);
      const auto* const now = tree_.kernel().find(pid);
      if (!then->zombie && now != nullptr && now->serial == then->serial) also.insert(pid);
    }
    return descendants(also);
  }

  std::string roll_back(rollback::Engine& engine, const Moment& wanted) {
    const auto stopped = stop_some();
    const Moment before = look(living(wanted));
    if (const bool shown = is_plan_shown(); below(8) == 0 || shown) {
      const auto plan = engine.rollback({.name = "here", .dry_run = true, .on_failure = {}});
      if (!plan) return "dry run: " + plan.error().text();
      if (auto failed = expect_same("by a dry run", before, look(before.pids)); !failed.empty()) return failed;
      for (const auto& line : plan->plan)
        if (shown) std::cerr << "  " << line << "\n";
    }
    const auto report = engine.rollback({.name = "here"});
    if (!report) return "rollback: " + report.error().text();
    tree_.wait_for_all();
    if (report->fate == apply::Fate::done) {
      ++statistics_.done;
      statistics_.tasks += report->tasks;
      for (const auto& stage : report->stages)
        if (stage.name == "fork") {
          ++statistics_.forked;
          break;
        }
      tree_.kernel().put_back(wanted.kernel, wanted.pids, before.pids);
      tree_.look_again();
      auto failed = expect_same("by the rollback", wanted, look(wanted.pids));
      // Who stops a task is outside of it: that is not undone. One that was made again runs.
      for (const pid_t pid : stopped)
        if (wanted.pids.contains(pid)) ::syscall(SYS_pidfd_send_signal, tree_.pidfd(pid), SIGCONT, nullptr, 0);
      return failed;
    }
    if (report->fate != apply::Fate::untouched || report->refusals.empty())
      return fmt::format("rollback: {}: {}", apply::fate_name(report->fate),
                         report->error ? report->error->text() : std::string("no reason"));
    ++statistics_.refused;
    statistics_.count(report->refusals.front().reason);
    auto failed = expect_same("by a rollback that was refused", before, look(before.pids));
    if (failed.empty()) failed = let_go_on(stopped);
    return failed;
  }

  RandomProgram::Random random_;
  Statistics& statistics_;
  PuppetTree tree_;
  Deeds deeds_;
  ProgramTaste taste_;
  std::vector<ProgramCall> first_;
};

TEST(TreeEngineTest, RandomTreesGoBack) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: to choose a pid (CAP_CHECKPOINT_RESTORE)";
  const std::uint64_t seed = number("RELIVE_TREE_SEED", 20260101);
  const std::uint64_t cases = number("RELIVE_TREE_CASES", 60);
  const std::uint64_t most_failures = number("RELIVE_TREE_FAILURES", 5);
  const auto begun = std::chrono::steady_clock::now();
  Statistics statistics;
  std::uint64_t failures = 0;
  for (; statistics.cases < cases && failures < most_failures; ++statistics.cases) {
    if (std::getenv("RELIVE_TREE_SHOW") != nullptr) std::cerr << fmt::format("seed {}\n", seed + statistics.cases);
    const std::string failed = Case(seed + statistics.cases, statistics).run();
    if (failed.empty()) continue;
    ++failures;
    ADD_FAILURE() << "seed " << seed + statistics.cases << ": " << failed;
  }
  statistics.print(seed, std::chrono::steady_clock::now() - begun);
}

// A task has begun a session: it is to be killed, and forked again by its parent, which does not have its pipe.
TEST(TreeEngineTest, WhatATaskLosesAsItIsMadeAgainIsRefusedBeforeItIsKilled) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: to choose a pid (CAP_CHECKPOINT_RESTORE)";
  PuppetTree tree;
  RandomProgram::Random random(1);
  RandomProgram program(tree.kernel(), random, PuppetTree::kRoot, {});
  const auto make = [&](const ProgramCall& call) {
    const int result = program.make(call);
    EXPECT_EQ(tree.make(call, result), "");
    return result;
  };
  const pid_t child = make({.kind = ProgramCall::Kind::clone, .caller = PuppetTree::kRoot});
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]);
  const UniqueFd write_end(ends[1]);
  PuppetOrder order{};
  const auto path = fmt::format("/proc/{}/fd/{}", ::getpid(), write_end.get());
  std::memcpy(order.text, path.c_str(), path.size() + 1);
  order.number = SYS_openat;
  order.arguments[0] = static_cast<std::uint64_t>(AT_FDCWD);
  order.arguments[1] = tree.order() + offsetof(PuppetOrder, text);
  order.arguments[2] = O_WRONLY;
  const int number = tree.tell(child, order);
  ASSERT_GE(number, 0);

  auto engine = rollback::Engine::open({tree.real(PuppetTree::kRoot)});
  ASSERT_TRUE(engine.has_value()) << engine.error().text();
  const auto taken = (*engine)->snapshot({.name = "here", .replace = false, .tracker = {}});
  ASSERT_TRUE(taken.has_value()) << taken.error().text();
  make({.kind = ProgramCall::Kind::setsid, .caller = child});
  const auto report = (*engine)->rollback({.name = "here"});
  ASSERT_TRUE(report.has_value()) << report.error().text();
  EXPECT_EQ(report->fate, apply::Fate::untouched) << (report->error ? report->error->text() : "");
  ASSERT_EQ(report->refusals.size(), 1U);
  EXPECT_NE(report->refusals[0].object.find(fmt::format("descriptor {} of task {}", number, tree.real(child))),
            std::string::npos)
      << report->refusals[0].object;
  EXPECT_EQ(tree.compare(), "");
  EXPECT_EQ(tree.tell(child, order), number + 1);  // it goes on
}

}  // namespace
}  // namespace relive::testing
