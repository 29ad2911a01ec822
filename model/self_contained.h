// Objects that stand for themselves: one can be made anew from its description alone, refers to no other file, and
// nobody outside the task can tell whether it is still the same one. Counters, timers, sets of signals and the like.
//
// Such a kind is a struct with kSelfContained here, words() and same_object() beside it, a reader in capture/
// (opened.h), what differs in diff/self_contained.h, and how it is made and put right in apply/self_contained.h.
#pragma once

#include <cstdint>

#include "model/words.h"

namespace relive::model {

template <class T>
concept SelfContained = requires { requires T::kSelfContained; };

// eventfd(2)
struct EventCounter {
  static constexpr bool kSelfContained = true;
  std::uint64_t id = 0;  // "eventfd-id" of fdinfo: two living counters never share it; the kernel uses it again
  std::uint64_t count = 0;
  bool semaphore = false;      // EFD_SEMAPHORE
  bool semaphore_told = true;  // false before Linux 6.5 (fdinfo "eventfd-semaphore"): it cannot be made again
  bool operator==(const EventCounter&) const = default;
};
Words words(const EventCounter& counter);

// Is it the very same kernel object, as far as the kernel tells at all? Where it tells nothing: false.
[[nodiscard]] bool same_object(const EventCounter& a, const EventCounter& b);

}  // namespace relive::model
