#include <fmt/format.h>

#include <algorithm>

#include "diff/self_contained.h"

namespace relive::diff {

namespace {

const model::InotifyWatch* find(const model::InotifySet& set, std::int32_t number) {
  const auto found = std::ranges::lower_bound(set.watches, number, {}, &model::InotifyWatch::number);
  return found != set.watches.end() && found->number == number ? &*found : nullptr;
}

}  // namespace

// In place watches are only taken away: adding one can fail. What is unread cannot be told without taking it: an
// instance that had something is made anew.
bool can_become(const model::InotifySet& wanted, const model::InotifySet& living) {
  return wanted.events.empty() && std::ranges::all_of(wanted.watches, [&](const model::InotifyWatch& watch) {
           const auto* const now = find(living, watch.number);
           return now != nullptr && *now == watch;
         });
}

std::vector<std::string> changes(const model::InotifySet& wanted, const model::InotifySet& living) {
  std::vector<std::string> out;
  for (const model::InotifyWatch& watch : wanted.watches) {
    const auto* const now = find(living, watch.number);
    if (now == nullptr)
      out.push_back(fmt::format("watch {} removed", watch.number));
    else if (*now != watch)
      out.push_back(fmt::format("watch {} is for another file or for other events", watch.number));
  }
  for (const model::InotifyWatch& watch : living.watches)
    if (find(wanted, watch.number) == nullptr) out.push_back(fmt::format("watch {} added", watch.number));
  if (living.unread != wanted.unread)
    out.push_back(fmt::format("bytes of unread events {} -> {}", wanted.unread, living.unread));
  return out;
}

CannotMake cannot_make(const model::InotifySet& wanted) {
  return {.reason = model::why_not_queued_again(wanted.events, wanted.watches), .hint = {}};
}

}  // namespace relive::diff
