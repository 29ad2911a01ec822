#include "diff/self_contained.h"

#include <fmt/format.h>

namespace relive::diff {

namespace {
constexpr std::uint64_t kSemaphoreDrain = 1024;  // a semaphore is drained by one a read
}

bool can_become(const model::EventCounter& wanted, const model::EventCounter& living) {
  if (wanted.semaphore != living.semaphore) return false;
  return !wanted.semaphore || wanted.count == living.count || living.count <= kSemaphoreDrain;
}
std::vector<std::string> changes(const model::EventCounter& wanted, const model::EventCounter& living) {
  if (wanted.count == living.count) return {};
  return {fmt::format("count {} -> {}", wanted.count, living.count)};
}
CannotMake cannot_make(const model::EventCounter& wanted) {
  if (wanted.semaphore_told) return {};
  return {.reason = "this kernel does not tell whether it was a semaphore", .hint = "Linux 6.5 tells"};
}

}  // namespace relive::diff
