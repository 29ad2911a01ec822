#include "diff/credentials.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <string>

namespace relive::diff {

namespace {

Refusal changed(std::string object, const std::string& from, const std::string& to) {
  return {.object = std::move(object),
          .reason = fmt::format("changed since the snapshot: {} -> {}", from, to),
          .hint = "relive never changes what a task may do; start the program anew and take a new snapshot"};
}

std::string filters(const model::Credentials& credentials) {
  return fmt::format("mode {} with {} filters", credentials.seccomp_mode, credentials.seccomp_filters);
}

}  // namespace

std::optional<Refusal> compare_credentials(const model::Credentials& wanted, const model::Credentials& living) {
  constexpr std::array<std::string_view, 4> kWhich{"real", "effective", "saved", "file system"};
  constexpr std::array<std::string_view, 5> kSets{"inheritable", "permitted", "effective", "bounding", "ambient"};
  for (std::size_t i = 0; i < kWhich.size(); ++i) {
    if (wanted.uids[i] != living.uids[i]) {
      return changed(fmt::format("{} user id", kWhich[i]), fmt::to_string(wanted.uids[i]),
                     fmt::to_string(living.uids[i]));
    }
    if (wanted.gids[i] != living.gids[i]) {
      return changed(fmt::format("{} group id", kWhich[i]), fmt::to_string(wanted.gids[i]),
                     fmt::to_string(living.gids[i]));
    }
  }
  if (wanted.groups != living.groups) {
    return changed("supplementary groups", fmt::format("[{}]", fmt::join(wanted.groups, " ")),
                   fmt::format("[{}]", fmt::join(living.groups, " ")));
  }
  for (std::size_t i = 0; i < kSets.size(); ++i) {
    if (wanted.capabilities[i] != living.capabilities[i]) {
      return changed(fmt::format("{} capabilities", kSets[i]), fmt::format("{:016x}", wanted.capabilities[i]),
                     fmt::format("{:016x}", living.capabilities[i]));
    }
  }
  if (wanted.no_new_privs != living.no_new_privs) {
    return changed("no_new_privs", fmt::to_string(int{wanted.no_new_privs}), fmt::to_string(int{living.no_new_privs}));
  }
  if (wanted.seccomp_mode != living.seccomp_mode || wanted.seccomp_filters != living.seccomp_filters) {
    return changed("seccomp", filters(wanted), filters(living));
  }
  return std::nullopt;
}

}  // namespace relive::diff
