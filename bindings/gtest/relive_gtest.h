// GoogleTest on top of librelive: each test begins with a process as it was seeded. Link with -lrelive.
//
//     class Shop : public relive_gtest::FromSnapshot {
//      protected:
//       static void SetUpTestSuite() {       // starts and seeds it once
//         start_shop();
//         begin(shop_pid);                   // the state that every test begins with
//       }
//       static void TearDownTestSuite() {
//         end();                             // nothing of relive's stays in the process
//         end_shop();
//       }
//     };
//     TEST_F(Shop, TakesAnOrder) { ... }     // put back before each; refused: the test fails, and says of what
//
// Connections that are open at begin() go on behind each rollback. Not for tests that run in several threads.
#pragma once

#include <gtest/gtest.h>
#include <relive.h>
#include <sys/types.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace relive_gtest {

// One process and its state to begin with.
class Stack {
 public:
  // Takes the snapshot. Throws std::runtime_error, which says what is in the way.
  explicit Stack(pid_t pid, const char* name = "gtest") {
    must(relive_adopt(pid, nullptr, &process_, &error_));
    relive_snapshot_options options{};
    options.size = sizeof options;
    options.name = name;
    options.replace = 1;
    if (relive_snapshot(process_, &options, nullptr, &error_) != RELIVE_OK) {
      relive_release(process_);
      must(error_->code);
    }
    name_ = name;
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  // Forgets the snapshot and says what going back has cost.
  ~Stack() {
    relive_drop(process_, name_.c_str(), nullptr);
    relive_release(process_);
    if (cost_us_.empty()) return;
    std::sort(cost_us_.begin(), cost_us_.end());
    std::printf("relive: %zu rollbacks, %.1f ms median, %.1f ms at most\n", cost_us_.size(),
                static_cast<double>(cost_us_[cost_us_.size() / 2]) / 1000, static_cast<double>(cost_us_.back()) / 1000);
  }

  void rollback() {
    relive_rollback_report* report = nullptr;
    const relive_code code = relive_rollback(process_, name_.c_str(), nullptr, &report, &error_);
    if (report != nullptr) cost_us_.push_back(report->total_us);
    relive_rollback_report_free(report);
    must(code);
  }

 private:
  void must(relive_code code) {
    if (code == RELIVE_OK) return;
    const std::string text = error_ != nullptr ? error_->message : relive_code_name(code);
    relive_error_free(error_);
    error_ = nullptr;
    throw std::runtime_error(text);
  }

  relive_process* process_ = nullptr;
  relive_error* error_ = nullptr;
  std::string name_;
  std::vector<std::uint64_t> cost_us_;
};

class FromSnapshot : public ::testing::Test {
 protected:
  static void begin(pid_t pid) { stack() = std::make_unique<Stack>(pid); }
  static void end() { stack().reset(); }

  // Who overrides this calls it first.
  void SetUp() override {
    ASSERT_NE(stack(), nullptr) << "begin() was not called in SetUpTestSuite()";
    try {
      stack()->rollback();
    } catch (const std::runtime_error& error) {
      FAIL() << error.what();
    }
  }

 private:
  static std::unique_ptr<Stack>& stack() {
    static std::unique_ptr<Stack> one;
    return one;
  }
};

}  // namespace relive_gtest
