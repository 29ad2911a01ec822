// From the rights of who has forked a task to those that it is to have: each step gives something up, none lifts
// anything. Pure. The rules are those of credentials(7) and capabilities(7).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "diff/difference.h"
#include "model/thread.h"

namespace relive::diff {

struct SetCapabilities {  // capset(2)
  std::uint64_t permitted = 0, effective = 0, inheritable = 0;
  bool operator==(const SetCapabilities&) const = default;
};
struct KeepCapabilities {  // PR_SET_KEEPCAPS: over a change of user ids
  bool on = false;
  bool operator==(const KeepCapabilities&) const = default;
};
struct DropFromBoundingSet {
  std::uint32_t capability = 0;
  bool operator==(const DropFromBoundingSet&) const = default;
};
struct SetGroups {
  std::vector<std::uint32_t> groups;
  bool operator==(const SetGroups&) const = default;
};
struct SetIds {  // setresuid(2) or setresgid(2), then setfsuid(2) or setfsgid(2)
  bool groups = false;
  std::array<std::uint32_t, 4> ids{};  // real, effective, saved, file system
  bool operator==(const SetIds&) const = default;
};
struct SetAmbient {  // PR_CAP_AMBIENT_RAISE or _LOWER
  std::uint32_t capability = 0;
  bool on = false;
  bool operator==(const SetAmbient&) const = default;
};
struct SetSecureBits {
  std::uint32_t bits = 0;
  bool operator==(const SetSecureBits&) const = default;
};
struct SetNoNewPrivileges {
  bool operator==(const SetNoNewPrivileges&) const = default;
};
using RightsStep = std::variant<SetCapabilities, KeepCapabilities, DropFromBoundingSet, SetGroups, SetIds, SetAmbient,
                                SetSecureBits, SetNoNewPrivileges>;
std::string text(const RightsStep& step);

struct RightsPlan {
  std::optional<Refusal> refusal;  // what cannot be had from there, by name; then there are no steps
  std::vector<RightsStep> steps;   // none: the rights are right
};

// REQUIRES: both know their secure bits (Thread::inside_known). The ids are those of one user namespace.
[[nodiscard]] RightsPlan plan_rights(const model::Thread& wanted, const model::Thread& living);

// The rights that execve(2) of a file without rights of its own leaves.
[[nodiscard]] model::Credentials after_execve(model::Credentials rights, std::uint32_t secure_bits);

}  // namespace relive::diff
