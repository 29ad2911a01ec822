#include "diff/rights.h"

#include <linux/capability.h>
#include <linux/securebits.h>

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/overloaded.h"
#include "diff/credentials.h"

namespace relive::diff {

namespace {

using model::Credentials;

enum Set : std::uint8_t { kInheritable, kPermitted, kEffective, kBounding, kAmbient };  // Credentials::capabilities

constexpr std::uint64_t bit(std::uint32_t capability) { return std::uint64_t{1} << capability; }
constexpr std::uint32_t kKeepCapabilities = 1U << SECURE_KEEP_CAPS;
// Each of these bits has its lock behind it (linux/securebits.h).
constexpr std::uint32_t locked_bits(std::uint32_t bits) {
  return (bits >> 1 & SECURE_ALL_BITS) | (bits & SECURE_ALL_LOCKS);
}

bool in(const std::array<std::uint32_t, 4>& ids, std::uint32_t id, std::size_t count) {
  return std::find(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count), id) !=
         ids.begin() + static_cast<std::ptrdiff_t>(count);
}

class Planner {
 public:
  Planner(const model::Thread& wanted, const model::Thread& living)
      : wanted_(wanted.credentials),
        living_(living.credentials),
        wanted_bits_(wanted.secure_bits),
        living_bits_(living.secure_bits) {}

  RightsPlan plan() && {
    if (!compare_credentials(wanted_, living_) && wanted_bits_ == living_bits_) return std::move(plan_);
    judge();
    if (plan_.refusal) return std::move(plan_);
    write();
    return std::move(plan_);
  }

 private:
  [[nodiscard]] bool has(std::uint32_t capability) const {
    return (living_.capabilities[kPermitted] & bit(capability)) != 0;
  }
  [[nodiscard]] bool users_change() const { return wanted_.uids != living_.uids; }

  void refuse(std::string object, std::string reason) {
    if (!plan_.refusal) plan_.refusal = Refusal{.object = std::move(object), .reason = std::move(reason), .hint = {}};
  }

  void judge() {
    if (wanted_.seccomp_mode != living_.seccomp_mode || wanted_.seccomp_filters != living_.seccomp_filters)
      refuse("seccomp filters", fmt::format("{} of them, not {}", living_.seccomp_filters, wanted_.seccomp_filters));
    if (living_.no_new_privs && !wanted_.no_new_privs) refuse("no_new_privs", "once set, it is set for ever");
    judge_capabilities();
    judge_ids("user ids", wanted_.uids, living_.uids, has(CAP_SETUID));
    judge_ids("group ids", wanted_.gids, living_.gids, has(CAP_SETGID));
    if (wanted_.groups != living_.groups && !has(CAP_SETGID))
      refuse("supplementary groups", fmt::format("[{}], and it may not set them", fmt::join(living_.groups, " ")));
    judge_secure_bits();
  }

  void judge_capabilities() {
    const auto lacks = [&](std::string_view name, std::uint64_t want, std::uint64_t have) {
      if ((want & ~have) != 0) refuse(fmt::format("{} capabilities", name), fmt::format("it lacks {:x}", want & ~have));
    };
    const auto& have = living_.capabilities;
    const auto& want = wanted_.capabilities;
    lacks("permitted", want[kPermitted], have[kPermitted]);
    lacks("bounding", want[kBounding], have[kBounding]);
    lacks("inheritable", want[kInheritable], have[kInheritable] | (have[kPermitted] & have[kBounding]));
    if (want[kBounding] != have[kBounding] && !has(CAP_SETPCAP))
      refuse("bounding capabilities", "dropping from that set takes CAP_SETPCAP");
    const std::uint64_t raised = users_change() ? want[kAmbient] : want[kAmbient] & ~have[kAmbient];
    if (raised != 0 && (living_bits_ & 1U << SECURE_NO_CAP_AMBIENT_RAISE) != 0)
      refuse("ambient capabilities", "its secure bits forbid to raise them");
  }

  void judge_ids(std::string_view name, const std::array<std::uint32_t, 4>& want,
                 const std::array<std::uint32_t, 4>& have, bool free) {
    if (want == have || free) return;
    const bool among = in(have, want[0], 3) && in(have, want[1], 3) && in(have, want[2], 3);
    if (among && (in(want, want[3], 3) || want[3] == want[1])) return;
    refuse(std::string(name), fmt::format("{}, not {}", fmt::join(have, " "), fmt::join(want, " ")));
  }

  void judge_secure_bits() {
    const std::uint32_t change = wanted_bits_ ^ living_bits_;
    if ((change & locked_bits(living_bits_)) != 0)
      refuse("secure bits", fmt::format("{:x} are locked, not {:x}", living_bits_, wanted_bits_));
    if ((change & ~kKeepCapabilities) != 0 && !has(CAP_SETPCAP))
      refuse("secure bits", fmt::format("{:x}, not {:x}", living_bits_, wanted_bits_));
    if (users_change() && (living_bits_ & 1U << SECURE_KEEP_CAPS_LOCKED) != 0)
      refuse("user ids", "its secure bits forbid to keep capabilities over their change");
  }

  void write() {
    const auto& have = living_.capabilities;
    const auto& want = wanted_.capabilities;
    // All that is permitted is in effect for as long as something is to be changed.
    const SetCapabilities all{
        .permitted = have[kPermitted], .effective = have[kPermitted], .inheritable = want[kInheritable]};
    step(all);
    for (std::uint32_t capability = 0; capability < 64; ++capability)
      if ((have[kBounding] & ~want[kBounding] & bit(capability)) != 0) step(DropFromBoundingSet{capability});
    if (wanted_.groups != living_.groups) step(SetGroups{wanted_.groups});
    if (wanted_.gids != living_.gids) step(SetIds{.groups = true, .ids = wanted_.gids});
    if (users_change()) {
      step(KeepCapabilities{true});
      step(SetIds{.groups = false, .ids = wanted_.uids});
      step(all);
    }
    for (std::uint32_t capability = 0; capability < 64; ++capability) {
      const bool on = (want[kAmbient] & bit(capability)) != 0;
      const bool known = !users_change() && on == ((have[kAmbient] & bit(capability)) != 0);
      if (!known && (on || (have[kAmbient] & bit(capability)) != 0)) step(SetAmbient{capability, on});
    }
    if (((wanted_bits_ ^ living_bits_) & ~kKeepCapabilities) != 0)
      step(SetSecureBits{wanted_bits_});
    else if (users_change() || wanted_bits_ != living_bits_)
      step(KeepCapabilities{(wanted_bits_ & kKeepCapabilities) != 0});
    step(SetCapabilities{
        .permitted = want[kPermitted], .effective = want[kEffective], .inheritable = want[kInheritable]});
    if (wanted_.no_new_privs && !living_.no_new_privs) step(SetNoNewPrivileges{});
  }

  void step(RightsStep step) { plan_.steps.push_back(std::move(step)); }

  const Credentials& wanted_;
  const Credentials& living_;
  std::uint32_t wanted_bits_;
  std::uint32_t living_bits_;
  RightsPlan plan_;
};

}  // namespace

RightsPlan plan_rights(const model::Thread& wanted, const model::Thread& living) {
  return Planner(wanted, living).plan();
}

Credentials after_execve(Credentials rights, std::uint32_t secure_bits) {
  const bool root_counts = (secure_bits & 1U << SECURE_NOROOT) == 0;
  const bool root = root_counts && (rights.uids[0] == 0 || rights.uids[1] == 0);
  auto& sets = rights.capabilities;
  sets[kPermitted] = sets[kAmbient] | (root ? sets[kInheritable] | sets[kBounding] : 0);
  sets[kEffective] = root && rights.uids[1] == 0 ? sets[kPermitted] : sets[kAmbient];
  rights.uids[2] = rights.uids[3] = rights.uids[1];
  rights.gids[2] = rights.gids[3] = rights.gids[1];
  return rights;
}

std::string text(const RightsStep& step) {
  return std::visit(
      Overloaded{
          [](const SetCapabilities& s) {
            return fmt::format("capset {:x} {:x} {:x}", s.permitted, s.effective, s.inheritable);
          },
          [](const KeepCapabilities& s) { return fmt::format("keep capabilities: {}", s.on ? "on" : "off"); },
          [](const DropFromBoundingSet& s) { return fmt::format("drop {} from the bounding set", s.capability); },
          [](const SetGroups& s) { return fmt::format("setgroups [{}]", fmt::join(s.groups, " ")); },
          [](const SetIds& s) {
            return fmt::format("set {} ids {}", s.groups ? "group" : "user", fmt::join(s.ids, " "));
          },
          [](const SetAmbient& s) {
            return fmt::format("{} ambient capability {}", s.on ? "raise" : "lower", s.capability);
          },
          [](const SetSecureBits& s) { return fmt::format("set secure bits {:x}", s.bits); },
          [](const SetNoNewPrivileges&) { return std::string("set no_new_privs"); },
      },
      step);
}

}  // namespace relive::diff
