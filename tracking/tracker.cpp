#include "tracking/tracker.h"

#include <array>

#include <fmt/format.h>

#include "tracking/backends.h"

namespace relive::tracking {

namespace {
constexpr std::array kKinds = {TrackerKind::uffd, TrackerKind::soft_dirty, TrackerKind::compare};
}

std::string_view tracker_name(TrackerKind kind) {
  switch (kind) {
    case TrackerKind::uffd:
      return "uffd";
    case TrackerKind::soft_dirty:
      return "soft-dirty";
    case TrackerKind::compare:
      return "compare";
  }
  return "?";
}

Result<TrackerKind> parse_tracker(std::string_view name) {
  for (const TrackerKind kind : kKinds)
    if (name == tracker_name(kind)) return kind;
  return fail(ErrorKind::usage, fmt::format("there is no tracker '{}'", name), "uffd, soft-dirty or compare");
}

TrackerKind best_tracker() {
  for (const TrackerProof& proof : prove_trackers())
    if (proof.works) return proof.kind;
  return TrackerKind::compare;
}

Result<std::unique_ptr<Tracker>> Tracker::create(TrackerKind kind, parasite::Visit& visit) {
  switch (kind) {
    case TrackerKind::uffd:
      return make_uffd_tracker(visit);
    case TrackerKind::soft_dirty:
      return make_soft_dirty_tracker(visit);
    case TrackerKind::compare:
      return make_compare_tracker(visit);
  }
  return fail(ErrorKind::usage, "no such tracker");
}

}  // namespace relive::tracking
