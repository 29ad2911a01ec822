#include "apply/socket_options.h"

#include <fmt/format.h>
#include <linux/filter.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>

#include "base/fault.h"
#include "capture/descriptors.h"

namespace relive::apply {

using model::SocketOption;

namespace {

bool is_filter(const SocketOption& option) { return option.level == SOL_SOCKET && option.name == SO_ATTACH_FILTER; }

sock_fprog program_at(std::uint64_t instructions, const SocketOption& option) {
  return {.len = static_cast<unsigned short>(option.value.size() / sizeof(sock_filter)),
          .filter = reinterpret_cast<sock_filter*>(instructions)};
}

// The option as setsockopt(2) takes it in the task, its value in the arena.
struct There {
  std::uint64_t level;
  std::uint64_t name;
  std::uint64_t value;
  std::uint64_t size;
};
Result<There> put_option(FileMaker& maker, const SocketOption& option) {
  There there{.level = static_cast<std::uint64_t>(option.level),
              .name = static_cast<std::uint64_t>(option.name),
              .value = RELIVE_TRY(maker.visit().arena().put(option.value)).value,
              .size = option.value.size()};
  if (!is_filter(option)) return there;
  const sock_fprog program = program_at(there.value, option);
  there.value = RELIVE_TRY(maker.visit().arena().put_value(program)).value;
  there.size = sizeof program;
  if (option.value.empty()) there.name = SO_DETACH_FILTER;
  return there;
}

}  // namespace

Result<void> set_option(int ours, const SocketOption& option) {
  const void* value = option.value.data();
  std::size_t size = option.value.size();
  const sock_fprog program = program_at(reinterpret_cast<std::uint64_t>(value), option);
  if (is_filter(option)) {
    value = &program;
    size = sizeof program;
  }
  if (::setsockopt(ours, option.level, option.name, value, static_cast<socklen_t>(size)) != 0)
    return fail_errno("setsockopt", fmt::format("option {}/{} of a new socket", option.level, option.name));
  return {};
}

Result<void> set_options(int ours, const model::Socket& socket) {
  const auto fresh = capture::read_socket_options(ours, socket.family, socket.type);
  for (const SocketOption& option : socket.options) {
    if (std::ranges::find(fresh, option) == fresh.end()) RELIVE_TRY(set_option(ours, option));
  }
  return {};
}

Result<void> carry_out(FileMaker& maker, const diff::SetOption& op) {
  RELIVE_TRY(fault_point("socket option"));
  parasite::Visit& visit = maker.visit();
  const auto fd = FileMaker::number(op.from);
  for (auto back = op.back.rbegin(); back != op.back.rend(); ++back) {
    const There there = RELIVE_TRY(put_option(maker, *back));
    RELIVE_TRY(
        visit.record_undo("setsockopt back", SYS_setsockopt, {fd, there.level, there.name, there.value, there.size}));
  }
  const There there = RELIVE_TRY(put_option(maker, op.option));
  RELIVE_TRY(visit.syscall(fmt::format("setsockopt {} {}/{}", op.from.value, op.option.level, op.option.name),
                           SYS_setsockopt, {fd, there.level, there.name, there.value, there.size}));
  return {};
}

}  // namespace relive::apply
