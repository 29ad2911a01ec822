// What a rollback does with each kind of descriptor, for people: docs/descriptors.md shows this table, and a test
// compares the two.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace relive::diff {

struct KindRule {
  std::string_view kind;
  std::string_view goes_back;
  std::string_view stays;
  std::string_view closed_since;  // how it comes back
};
[[nodiscard]] std::span<const KindRule> kind_rules();
// The rules as a Markdown table.
[[nodiscard]] std::string kind_rules_markdown();

}  // namespace relive::diff
