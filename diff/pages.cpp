#include "diff/pages.h"

#include <fmt/format.h>

namespace relive::diff {

std::string mapping_name(const model::Mapping& mapping) {
  const std::string name = mapping.name.empty() ? "anonymous" : mapping.name;
  return fmt::format("{:x}-{:x} {}", mapping.range.begin, mapping.range.end, name);
}

std::vector<Difference> describe_pages(const tracking::PagePlan& plan, const model::Memory& wanted) {
  tracking::Ranges ranges = plan.drops;
  tracking::Ranges copies;
  for (const auto& copy : plan.copies) copies.push_back({copy.to, copy.to + copy.pages * kPageSize});
  ranges = tracking::unite(ranges, copies);
  std::vector<Difference> out;
  for (const model::Mapping& mapping : wanted.mappings) {
    std::uint64_t pages = 0;
    for (const AddressRange& range : tracking::intersect(ranges, {mapping.range})) pages += range.pages();
    if (pages == 0) continue;
    out.push_back({.family = Family::page,
                   .sign = Sign::changed,
                   .object = mapping_name(mapping),
                   .text = fmt::format("{} of {} pages written", pages, mapping.range.pages()),
                   .pages = pages});
  }
  return out;
}

}  // namespace relive::diff
