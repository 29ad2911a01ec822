#include "capture/credentials.h"

#include <fmt/format.h>

#include "base/number.h"
#include "task/procfs.h"

namespace relive::capture {

namespace {

// Cuts the first word off `text`; empty when there is none left.
std::string_view next_word(std::string_view& text) {
  constexpr std::string_view kSpace = " \t";
  const auto begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  text.remove_prefix(begin);
  const auto word = text.substr(0, text.find_first_of(kSpace));
  text.remove_prefix(word.size());
  return word;
}

std::unexpected<Error> malformed(std::string_view name) {
  return fail(ErrorKind::system, fmt::format("/proc/PID/status: cannot read line \"{}:\"", name));
}

Result<std::array<std::uint32_t, 4>> four_ids(std::string_view status, std::string_view name) {
  auto text = task::status_field(status, name);
  std::array<std::uint32_t, 4> ids{};
  for (auto& id : ids) {
    const auto number = parse_number<std::uint32_t>(next_word(text));
    if (!number) return malformed(name);
    id = *number;
  }
  return ids;
}

template <class T>
Result<T> number_field(std::string_view status, std::string_view name, int base, std::optional<T> if_missing = {}) {
  const auto text = task::status_field(status, name);
  if (text.empty() && if_missing) return *if_missing;
  const auto number = parse_number<T>(text, base);
  if (!number) return malformed(name);
  return *number;
}

}  // namespace

Result<model::Credentials> parse_credentials(std::string_view status) {
  model::Credentials out;
  out.uids = RELIVE_TRY(four_ids(status, "Uid"));
  out.gids = RELIVE_TRY(four_ids(status, "Gid"));
  auto groups = task::status_field(status, "Groups");
  for (auto word = next_word(groups); !word.empty(); word = next_word(groups)) {
    const auto group = parse_number<std::uint32_t>(word);
    if (!group) return malformed("Groups");
    out.groups.push_back(*group);
  }
  constexpr std::array<std::string_view, 5> kSets{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"};
  for (std::size_t i = 0; i < kSets.size(); ++i) {
    out.capabilities[i] = RELIVE_TRY(number_field<std::uint64_t>(status, kSets[i], 16));
  }
  out.no_new_privs = RELIVE_TRY(number_field<std::uint32_t>(status, "NoNewPrivs", 10)) != 0;
  out.seccomp_mode = RELIVE_TRY(number_field<std::uint32_t>(status, "Seccomp", 10, 0U));
  out.seccomp_filters = RELIVE_TRY(number_field<std::uint32_t>(status, "Seccomp_filters", 10, 0U));
  return out;
}

}  // namespace relive::capture
