#include "diff/locks.h"

#include <fmt/format.h>

#include <algorithm>

namespace relive::diff {

namespace {

using model::FileLock;
using model::kLockToEnd;
using model::LockKind;
using model::LockMode;

LockMode mode_at(LockKind kind, const std::vector<FileLock>& locks, std::uint64_t byte) {
  for (const FileLock& lock : locks)
    if (lock.kind == kind && lock.first <= byte && byte <= lock.last) return lock.mode;
  return LockMode::none;
}

// Appends a step, or makes the one before it longer.
void append(std::vector<LockStep>& steps, const LockStep& step) {
  if (!steps.empty() && steps.back().mode == step.mode && steps.back().last + 1 == step.first)
    steps.back().last = step.last;
  else
    steps.push_back(step);
}

// The first bytes of the stretches in each of which no lock begins or ends; ascending, from 0.
std::vector<std::uint64_t> stretches(LockKind kind, const std::vector<FileLock>& wanted,
                                     const std::vector<FileLock>& living) {
  std::vector<std::uint64_t> begins{0};
  for (const auto* const locks : {&wanted, &living}) {
    for (const FileLock& lock : *locks) {
      if (lock.kind != kind) continue;
      begins.push_back(lock.first);
      if (lock.last < kLockToEnd) begins.push_back(lock.last + 1);
    }
  }
  std::ranges::sort(begins);
  begins.erase(std::ranges::unique(begins).begin(), begins.end());
  return begins;
}

bool same_lock(const FileLock& a, const FileLock& b) {
  return a.kind == b.kind && a.mode == b.mode && a.first == b.first && a.last == b.last && a.breaking == b.breaking &&
         a.table == b.table;
}
bool has(const std::vector<FileLock>& locks, const FileLock& lock) {
  return std::ranges::any_of(locks, [&](const FileLock& other) { return same_lock(other, lock); });
}

}  // namespace

std::string text(const LockStep& step) {
  const std::string what =
      model::text(FileLock{.kind = step.kind, .mode = step.mode, .first = step.first, .last = step.last, .file = {}});
  return step.mode == LockMode::none ? what : "take " + what;
}

std::string text(const std::vector<LockStep>& steps) {
  std::string all;
  for (const LockStep& step : steps) all += (all.empty() ? "" : ", ") + text(step);
  return all;
}

LockPlan plan_locks(LockKind kind, const std::vector<FileLock>& wanted, const std::vector<FileLock>& living) {
  LockPlan plan;
  const std::vector<std::uint64_t> begins = stretches(kind, wanted, living);
  for (std::size_t at = 0; at < begins.size(); ++at) {
    const std::uint64_t first = begins[at];
    const std::uint64_t last = at + 1 < begins.size() ? begins[at + 1] - 1 : kLockToEnd;
    const LockMode want = mode_at(kind, wanted, first);
    const LockMode now = mode_at(kind, living, first);
    if (want == now) continue;
    const LockStep step{.kind = kind, .mode = want, .first = first, .last = last};
    // A lease that is weakened is set like one that is taken: the kernel may refuse either.
    if (want > now || (kind == LockKind::lease && want != LockMode::none)) {
      append(plan.take, step);
      append(plan.back, {.kind = kind, .mode = now, .first = first, .last = last});
    } else {
      append(plan.ease, step);
    }
  }
  return plan;
}

std::vector<LockStep> state_locks(LockKind kind, const std::vector<FileLock>& wanted) {
  std::vector<LockStep> steps;
  const std::vector<std::uint64_t> begins = stretches(kind, wanted, {});
  for (std::size_t at = 0; at < begins.size(); ++at) {
    append(steps, {.kind = kind,
                   .mode = mode_at(kind, wanted, begins[at]),
                   .first = begins[at],
                   .last = at + 1 < begins.size() ? begins[at + 1] - 1 : kLockToEnd});
  }
  // What is to be locked comes first: nobody shall get it in between.
  std::ranges::stable_partition(steps, [](const LockStep& step) { return step.mode != LockMode::none; });
  return steps;
}

std::vector<std::string> lock_changes(const std::vector<FileLock>& wanted, const std::vector<FileLock>& living) {
  std::vector<std::string> changes;
  for (const FileLock& lock : wanted)
    if (!has(living, lock)) changes.push_back(fmt::format("no {} any more", model::text(lock)));
  for (const FileLock& lock : living)
    if (!has(wanted, lock)) changes.push_back(fmt::format("{} since", model::text(lock)));
  return changes;
}

}  // namespace relive::diff
