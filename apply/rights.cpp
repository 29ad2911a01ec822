#include "apply/rights.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <variant>

#include "base/overloaded.h"

namespace relive::apply {

namespace {

// What capset(2) reads.
struct KernelCapabilities {
  __user_cap_header_struct header;
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
};

KernelCapabilities kernel_form(const diff::SetCapabilities& sets) {
  KernelCapabilities out{.header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0}, .data = {}};
  for (unsigned half = 0; half < _LINUX_CAPABILITY_U32S_3; ++half) {
    const auto word = [&](std::uint64_t set) { return static_cast<__u32>(set >> (32 * half)); };
    out.data[half] = {
        .effective = word(sets.effective), .permitted = word(sets.permitted), .inheritable = word(sets.inheritable)};
  }
  return out;
}

}  // namespace

Result<void> append_rights(parasite::Arena& arena, const std::vector<diff::RightsStep>& steps,
                           parasite::Program& program) {
  using Done = Result<void>;
  for (const diff::RightsStep& step : steps) {
    const std::string what = diff::text(step);
    const auto control = [&](std::initializer_list<std::uint64_t> words) -> Done {
      program.syscall(what, SYS_prctl, words);
      return {};
    };
    RELIVE_TRY(std::visit(
        Overloaded{
            [&](const diff::SetCapabilities& sets) -> Done {
              const std::uint64_t at = RELIVE_TRY(arena.put_value(kernel_form(sets))).value;
              program.syscall(what, SYS_capset, {at, at + offsetof(KernelCapabilities, data)});
              return {};
            },
            [&](const diff::KeepCapabilities& keep) { return control({PR_SET_KEEPCAPS, keep.on ? 1U : 0U, 0, 0, 0}); },
            [&](const diff::DropFromBoundingSet& drop) { return control({PR_CAPBSET_DROP, drop.capability, 0, 0, 0}); },
            [&](const diff::SetGroups& set) -> Done {
              const auto at = RELIVE_TRY(arena.put(std::as_bytes(std::span(set.groups))));
              program.syscall(what, SYS_setgroups, {set.groups.size(), at.value});
              return {};
            },
            [&](const diff::SetIds& set) -> Done {
              const auto& [real, effective, saved, file_system] = set.ids;
              program.syscall(what, set.groups ? SYS_setresgid : SYS_setresuid, {real, effective, saved});
              if (file_system != effective)
                program.syscall(what, set.groups ? SYS_setfsgid : SYS_setfsuid, {file_system});
              return {};
            },
            [&](const diff::SetAmbient& set) {
              return control({PR_CAP_AMBIENT, set.on ? std::uint64_t{PR_CAP_AMBIENT_RAISE} : PR_CAP_AMBIENT_LOWER,
                              set.capability, 0, 0});
            },
            [&](const diff::SetSecureBits& set) { return control({PR_SET_SECUREBITS, set.bits, 0, 0, 0}); },
            [&](const diff::SetNoNewPrivileges&) { return control({PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0}); },
        },
        step));
  }
  return {};
}

}  // namespace relive::apply
