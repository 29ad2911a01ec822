#include <fmt/format.h>

#include "diff/self_contained.h"

namespace relive::diff {

namespace {

constexpr std::uint32_t kPersistent = 0x0800;  // IFF_PERSIST

}  // namespace

bool can_become(const model::Tunnel& wanted, const model::Tunnel& living) {
  return wanted.path == living.path && wanted.interface == living.interface &&
         ((wanted.flags ^ living.flags) & ~kPersistent) == 0;
}

std::vector<std::string> changes(const model::Tunnel& wanted, const model::Tunnel& living) {
  std::vector<std::string> out;
  if (wanted.flags != living.flags) out.push_back(fmt::format("flags {:#x} -> {:#x}", wanted.flags, living.flags));
  if (wanted.send_buffer != living.send_buffer)
    out.push_back(fmt::format("send buffer {} -> {}", wanted.send_buffer, living.send_buffer));
  if (wanted.header != living.header) out.push_back(fmt::format("header {} -> {}", wanted.header, living.header));
  if (wanted.little_endian != living.little_endian) out.emplace_back("the byte order of its header");
  if (wanted.unread != living.unread) out.emplace_back("unread packets since");
  return out;
}

CannotMake cannot_make(const model::Tunnel& /*wanted*/) { return {}; }

}  // namespace relive::diff
