// A child that does what a word says, and an engine on it.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "live/child.h"
#include "rollback/engine.h"

namespace relive::testing {

class EngineSubject {
 public:
  using Deeds = std::map<char, std::function<bool()>>;
  // `set_up` is done before anything else.
  EngineSubject(const std::function<bool()>& set_up, const Deeds& deeds)
      : child_([set_up, deeds](ChildEnd end) -> int {
          end.say(set_up() ? 'y' : 'n');
          for (;;) end.say(deeds.at(end.hear())() ? 'y' : 'n');
        }) {
    EXPECT_EQ(child_.first_word(), 'y');
  }

  [[nodiscard]] const Child& child() const { return child_; }
  // Does the deed; did it succeed?
  [[nodiscard]] bool does(char deed) const { return child_.ask(deed) == 'y'; }

  Result<rollback::SnapshotReport> snapshot() {
    if (!engine_) engine_ = RELIVE_TRY(rollback::Engine::open(child_.pid()));
    return engine_->snapshot({.name = "here", .replace = true, .tracker = {}});
  }
  Result<rollback::RollbackReport> roll_back() { return engine_->rollback({.name = "here"}); }
  void expect_snapshot() {
    const auto taken = snapshot();
    ASSERT_TRUE(taken.has_value()) << taken.error().text();
  }
  void expect_rolled_back() {
    const auto report = roll_back();
    ASSERT_TRUE(report.has_value()) << report.error().text();
    EXPECT_EQ(report->fate, apply::Fate::done)
        << (report->error ? report->error->text() : "")
        << (report->refusals.empty() ? "" : report->refusals[0].object + ": " + report->refusals[0].reason);
  }

 private:
  Child child_;
  std::unique_ptr<rollback::Engine> engine_;
};

// A name for a file that nobody else uses.
inline std::string scratch_name(const std::string& name) {
  return ::testing::TempDir() + "relive-" + std::to_string(::getpid()) + "-" + name;
}

}  // namespace relive::testing
