#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "apply/self_contained.h"
#include "base/fault.h"
#include "task/procfs.h"

namespace relive::apply {

using parasite::Program;

namespace {

struct Setting {
  const char* what;
  unsigned long request;
  std::int32_t model::Tunnel::* value;
};
constexpr Setting kSettings[] = {
    {"TUNSETSNDBUF", TUNSETSNDBUF, &model::Tunnel::send_buffer},
    {"TUNSETVNETHDRSZ", TUNSETVNETHDRSZ, &model::Tunnel::header},
    {"TUNSETVNETLE", TUNSETVNETLE, &model::Tunnel::little_endian},
};

// Of the task's network namespace.
bool is_there(FileMaker& maker, const std::string& interface) {
  const auto devices = task::read_proc(maker.visit().task().pid(), "net/dev");
  return devices && devices->find(" " + interface + ":") != std::string::npos;
}

}  // namespace

// In the task, whose network namespace and rights the interface is to have.
Result<void> make(FileMaker& maker, std::size_t file, const model::Tunnel& wanted) {
  parasite::Visit& visit = maker.visit();
  const auto path =
      RELIVE_TRY(visit.arena().put(std::as_bytes(std::span(wanted.path.c_str(), wanted.path.size() + 1))));
  RELIVE_TRY(maker.make_one(file, "tun device", SYS_open, {path.value, O_RDWR | O_CLOEXEC, 0}));
  if (wanted.interface.empty()) return {};
  RELIVE_TRY(fault_point("attach a tun device"));
  const auto fd = FileMaker::number(maker.spare(file));
  const bool was_there = is_there(maker, wanted.interface);
  ifreq request{};
  wanted.interface.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = static_cast<short>(wanted.flags & ~std::uint32_t{IFF_PERSIST});
  const auto there = RELIVE_TRY(visit.arena().put_value(request));
  Program attach;
  attach.syscall("ioctl TUNSETIFF", SYS_ioctl, {fd, TUNSETIFF, there.value}, Program::OnError::go_on);
  RELIVE_TRY(visit.run(attach));
  if (attach.result(0) < 0) {
    return fail(ErrorKind::refused,
                fmt::format("the tun device of {} was closed since, and the interface cannot be had again: {}",
                            wanted.interface, std::strerror(static_cast<int>(-attach.result(0)))));
  }
  if (!was_there) {
    maker.workshop().notes.push_back(
        fmt::format("the interface {} was gone: made anew, without its addresses and routes", wanted.interface));
    if ((wanted.flags & IFF_PERSIST) != 0) {
      RELIVE_TRY(visit.record_undo("TUNSETPERSIST 0", SYS_ioctl, {fd, TUNSETPERSIST, 0}));
      RELIVE_TRY(visit.syscall("ioctl TUNSETPERSIST", SYS_ioctl, {fd, TUNSETPERSIST, 1}));
    }
  }
  for (const Setting& setting : kSettings) {
    const auto value = RELIVE_TRY(visit.arena().put_value(wanted.*setting.value));
    RELIVE_TRY(visit.syscall(setting.what, SYS_ioctl, {fd, setting.request, value.value}));
  }
  return {};
}

Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t flags, const model::Tunnel& wanted,
                       const model::Tunnel& living) {
  if (wanted.flags != living.flags) {
    const bool persistent = (wanted.flags & IFF_PERSIST) != 0;
    maker.commit(fmt::format("ioctl {} TUNSETPERSIST", fd.value), SYS_ioctl,
                 {FileMaker::number(fd), TUNSETPERSIST, persistent ? 1U : 0U});
  }
  for (const Setting& setting : kSettings) {
    if (wanted.*setting.value == living.*setting.value) continue;
    const auto value = RELIVE_TRY(maker.visit().arena().put_value(wanted.*setting.value));
    maker.commit(fmt::format("ioctl {} {}", fd.value, setting.what), SYS_ioctl,
                 {FileMaker::number(fd), setting.request, value.value});
  }
  if (living.unread) RELIVE_TRY(maker.drain(fd, flags, FileMaker::Drain::messages));
  return {};
}

}  // namespace relive::apply
