// Relive fails at every point it passes, and is killed at every one: the task is as before, or at its snapshot. The
// points are not listed here: they are counted as they are passed (base/fault.h).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/time.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>

#include "base/fault.h"
#include "faults/kinds_victim.h"
#include "faults/likeness.h"
#include "faults/tree_victim.h"
#include "faults/victim.h"
#include "rollback/engine.h"
#include "rollback/image_out.h"

namespace relive {
namespace {

using rollback::Engine;
using testing::Child;
using testing::ChildEnd;
using ::testing::IsEmpty;

constexpr std::uint64_t kMostPoints = 1000;
constexpr int kPatienceMs = 20'000;
constexpr const char* kName = "before";

class Scratch {
 public:
  Scratch() : path_((std::filesystem::temp_directory_path() / "relive-faults-XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) std::abort();
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

using RunVictim = int (*)(ChildEnd, const std::string&);

// A victim in a directory of its own. Answers 0 if it is stuck or dead.
class Subject {
 public:
  explicit Subject(RunVictim run) : child_([this, run](ChildEnd end) { return run(end, scratch_.path()); }) {
    EXPECT_EQ(child_.first_word(), 'y');
  }

  [[nodiscard]] model::Pid pid() const { return child_.pid(); }
  char ask(char word) const {
    child_.say(word);
    return child_.hear_within(kPatienceMs);
  }
  [[nodiscard]] std::string complaints() const {
    std::ifstream file(scratch_.path() + "/complaints");
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

 private:
  Scratch scratch_;
  Child child_;
};

// What is gone back to: a snapshot, or an image of it.
class Goal {
 public:
  explicit Goal(bool image) : image_(image) {}
  [[nodiscard]] Result<void> take(Engine& engine) const {
    RELIVE_TRY(engine.snapshot({.name = kName, .replace = false, .tracker = {}}));
    if (!image_) return {};
    RELIVE_TRY(rollback::write_snapshot(RELIVE_TRY(engine.parts(kName)), directory(), {}));
    return {};
  }
  // Lets go of what an image does not need.
  [[nodiscard]] Result<void> forget(Engine& engine) const { return image_ ? engine.drop_all() : Result<void>(); }
  [[nodiscard]] Result<rollback::RollbackReport> go_back(Engine& engine) const {
    if (image_) return engine.rollback({.image = directory()});
    return engine.rollback({.name = kName});
  }

 private:
  [[nodiscard]] std::string directory() const { return scratch_.path() + "/image"; }
  bool image_;
  Scratch scratch_;
};

class FaultsTest : public ::testing::TestWithParam<RunVictim> {};

std::string name_of(const ::testing::TestParamInfo<RunVictim>& victim) {
  if (victim.param == testing::run_tree_victim) return "AFamily";
  return victim.param == testing::run_victim ? "AProgram" : "EveryKindOfDescriptor";
}
INSTANTIATE_TEST_SUITE_P(Of, FaultsTest,
                         ::testing::Values(testing::run_victim, testing::run_kinds_victim, testing::run_tree_victim),
                         name_of);

// From images; of the other victims none are written yet.
class ImageFaultsTest : public ::testing::TestWithParam<RunVictim> {};
INSTANTIATE_TEST_SUITE_P(Of, ImageFaultsTest, ::testing::Values(testing::run_victim), name_of);

// The keeper stays: where the parasite is put in anew it leaves its traces on the unused part of a stack.
void fail_everywhere(RunVictim run, const Goal& goal) {
  const Subject subject(run);
  auto engine = Engine::open(subject.pid());
  ASSERT_TRUE(engine.has_value()) << engine.error().text();
  const auto taken = goal.take(**engine);
  ASSERT_TRUE(taken.has_value()) << taken.error().text();
  ASSERT_EQ(subject.ask(testing::kJudge), testing::kBack) << subject.complaints();
  ASSERT_EQ(subject.ask(testing::kWreck), 'y');
  ASSERT_EQ(subject.ask(testing::kJudge), testing::kWrecked) << subject.complaints();

  std::uint64_t failed = 0;
  for (std::uint64_t point = 0;; ++point) {
    ASSERT_LT(point, kMostPoints);
    const auto before = testing::look_at(subject.pid());
    arm_faults({.action = FaultPlan::Action::fail, .at = point});
    const auto report = goal.go_back(**engine);
    const bool hit = faults_passed() > point;
    const std::string where = "point " + std::to_string(point) + ", " + last_fault_point();
    arm_faults({});
    SCOPED_TRACE(where);
    ASSERT_TRUE(report.has_value()) << report.error().text();
    if (report->fate == apply::Fate::untouched) {
      ASSERT_TRUE(report->error.has_value())
          << (report->refusals.empty() ? "" : report->refusals[0].object + ": " + report->refusals[0].reason);
      ASSERT_EQ(report->error->kind, ErrorKind::injected) << report->error->text();
      ++failed;
      EXPECT_THAT(testing::unlike(before, testing::look_at(subject.pid())), IsEmpty());
      ASSERT_EQ(subject.ask(testing::kJudge), testing::kWrecked) << subject.complaints();
      continue;
    }
    ASSERT_EQ(report->fate, apply::Fate::done);  // behind the point of no return a failure changes nothing
    ASSERT_EQ(subject.ask(testing::kJudge), testing::kBack) << subject.complaints();
    if (!hit) break;
    ASSERT_EQ(subject.ask(testing::kWreck), 'y');
  }
  EXPECT_GT(failed, 5U);
  ::testing::Test::RecordProperty("points_failed", static_cast<int>(failed));
}

// Why a rollback was not done.
std::string complaint(const Result<rollback::RollbackReport>& report) {
  if (!report) return report.error().text();
  std::string out = report->error ? report->error->text() + "\n" : "";
  for (const auto& refusal : report->refusals) out += refusal.object + ": " + refusal.reason + "\n";
  return out;
}
TEST_P(FaultsTest, EveryFailureLeavesTheTaskAsItWas) { fail_everywhere(GetParam(), Goal(false)); }
TEST_P(ImageFaultsTest, EveryFailureLeavesTheTaskAsItWas) { fail_everywhere(GetParam(), Goal(true)); }

// The engine in a process of its own, to be killed.
class Keeper {
 public:
  // `arm`: called in that process right before the rollback.
  Keeper(model::Pid pid, const Goal& goal, const std::function<void()>& arm)
      : child_([pid, &goal, arm](ChildEnd end) -> int {
          auto engine = Engine::open(pid);
          const bool good = engine.has_value() && goal.take(**engine).has_value() && goal.forget(**engine).has_value();
          end.say(good ? 'y' : 'n');
          if (!good || end.hear() != 'g') return 3;
          arm();
          return complain_unless_done(goal.go_back(**engine));
        }) {
    EXPECT_EQ(child_.first_word(), 'y');
  }

  // True if it was killed on the way.
  bool roll_back() {
    child_.say('g');
    const int status = child_.wait();
    if (WIFSIGNALED(status)) return true;
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "wait status " << status;
    return false;
  }

 private:
  static int complain_unless_done(const Result<rollback::RollbackReport>& report) {
    if (report && report->fate == apply::Fate::done) return 0;
    std::cerr << complaint(report);
    return 2;
  }

  Child child_;
};

// Ends this process at a moment of the timer's choice: SIGALRM is deadly.
void end_after(suseconds_t microseconds) {
  const itimerval after{.it_interval = {}, .it_value = {.tv_sec = 0, .tv_usec = microseconds}};
  ::setitimer(ITIMER_REAL, &after, nullptr);
}

struct Aftermath {
  bool killed = false;
  char verdict = 0;  // of the task itself
};

// A wrecked victim is rolled back by a keeper that dies as `arm` says.
void let_die(RunVictim run, bool image, const std::function<void()>& arm, Aftermath& out) {
  const Subject subject(run);
  {
    const Goal goal(image);
    Keeper keeper(subject.pid(), goal, arm);
    ASSERT_EQ(subject.ask(testing::kWreck), 'y');
    out.killed = keeper.roll_back();
  }
  out.verdict = subject.ask(testing::kJudge);
  ASSERT_TRUE(out.verdict == testing::kBack || out.verdict == testing::kWrecked)
      << "the task says '" << out.verdict << "': " << subject.complaints();
  if (!out.killed) return;

  // The orphan can be taken in again.
  auto engine = Engine::open(subject.pid());
  ASSERT_TRUE(engine.has_value()) << engine.error().text();
  const auto taken = (*engine)->snapshot({.name = kName, .replace = false, .tracker = {}});
  ASSERT_TRUE(taken.has_value()) << taken.error().text();
  if (out.verdict == testing::kWrecked) return;
  ASSERT_EQ(subject.ask(testing::kWreck), 'y');
  const auto report = (*engine)->rollback({.name = kName});
  ASSERT_TRUE(report.has_value()) << report.error().text();
  ASSERT_EQ(report->fate, apply::Fate::done) << complaint(report);
  ASSERT_EQ(subject.ask(testing::kJudge), testing::kBack) << subject.complaints();
}

void kill_everywhere(RunVictim run, bool image) {
  bool at_snapshot = false;
  std::uint64_t undone = 0;
  for (std::uint64_t point = 0;; ++point) {
    ASSERT_LT(point, kMostPoints);
    SCOPED_TRACE("killed at point " + std::to_string(point));
    Aftermath aftermath;
    let_die(run, image, [point] { arm_faults({.action = FaultPlan::Action::kill, .at = point}); }, aftermath);
    if (::testing::Test::HasFatalFailure()) return;
    const bool back = aftermath.verdict == testing::kBack;
    ASSERT_TRUE(back || !at_snapshot) << "an earlier death had committed already";
    at_snapshot = back;
    undone += back ? 0U : 1U;
    if (!aftermath.killed) break;
  }
  EXPECT_TRUE(at_snapshot);
  EXPECT_GT(undone, 5U);
}

TEST_P(FaultsTest, TheKeepersDeathUndoesOrCommits) { kill_everywhere(GetParam(), false); }
TEST_P(ImageFaultsTest, TheKeepersDeathUndoesOrCommits) { kill_everywhere(GetParam(), true); }

// Between the points, too: the moment is left to a timer, so that which step it hits differs from run to run.
TEST_P(FaultsTest, TheKeeperMayDieAtAnyMoment) {
  constexpr suseconds_t kStepUs = 60;
  constexpr int kRounds = 60;
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE("killed after " + std::to_string(round * kStepUs) + " us");
    Aftermath aftermath;
    let_die(GetParam(), false, [round] { end_after(1 + round * kStepUs); }, aftermath);
    if (HasFatalFailure()) return;
  }
}

// A first snapshot puts the parasite in: the task goes on, whatever became of its keeper, and can be taken in again.
void let_die_in_snapshot(RunVictim run, const std::function<void()>& arm, bool& killed) {
  const Subject subject(run);
  {
    Child keeper([&](ChildEnd end) -> int {
      end.say('y');
      auto engine = Engine::open(subject.pid());
      if (!engine) return 3;
      arm();
      return (*engine)->snapshot({.name = kName, .replace = false, .tracker = {}}).has_value() ? 0 : 2;
    });
    const int status = keeper.wait();
    killed = WIFSIGNALED(status);
    ASSERT_TRUE(killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0)) << "wait status " << status;
  }
  ASSERT_EQ(subject.ask(testing::kJudge), testing::kBack) << subject.complaints();
  auto engine = Engine::open(subject.pid());
  ASSERT_TRUE(engine.has_value()) << engine.error().text();
  const auto taken = (*engine)->snapshot({.name = kName, .replace = false, .tracker = {}});
  ASSERT_TRUE(taken.has_value()) << taken.error().text();
}

TEST_P(FaultsTest, TheKeepersDeathInASnapshotIsHarmless) {
  for (std::uint64_t point = 0;; ++point) {
    ASSERT_LT(point, kMostPoints);
    SCOPED_TRACE("killed at point " + std::to_string(point));
    bool killed = false;
    let_die_in_snapshot(GetParam(), [point] { arm_faults({.action = FaultPlan::Action::kill, .at = point}); }, killed);
    if (HasFatalFailure()) return;
    if (!killed) break;
  }
}

TEST_P(FaultsTest, TheKeeperMayDieAtAnyMomentOfASnapshot) {
  constexpr suseconds_t kStepUs = 50;
  constexpr int kRounds = 60;
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE("killed after " + std::to_string(round * kStepUs) + " us");
    bool killed = false;
    let_die_in_snapshot(GetParam(), [round] { end_after(1 + round * kStepUs); }, killed);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace relive
