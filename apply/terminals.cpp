#include "apply/terminals.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "capture/terminals.h"
#include "task/procfs.h"
#include "task/signal_set.h"

namespace relive::apply {

namespace {

using model::Terminal;
using parasite::Program;

constexpr std::uint64_t kSetModes = _IOW('T', 0x2B, model::TerminalModes);  // TCSETS2: now, with nothing flushed

bool is_slave(std::uint64_t device) { return major(device) >= 136 && major(device) <= 143; }  // devices.txt

bool is_open(const model::DescriptorTable& table, const Terminal& wanted) {
  return std::ranges::any_of(table.open_files, [&](const model::OpenFile& file) {
    const auto* const terminal = std::get_if<Terminal>(&file.object);
    return terminal != nullptr && !terminal->hung_up && terminal->device == wanted.device;
  });
}

std::unexpected<Error> cannot_open(const Terminal& wanted, std::string_view why) {
  return fail(ErrorKind::refused,
              fmt::format("the terminal {} was closed since the snapshot, and {}", wanted.path, why));
}

// A process group's id as the task sees it. Its own one, or one of a task in the same pid namespace.
Result<std::int32_t> group_in_task(FileMaker& maker, std::int32_t group) {
  const model::Pid pid = maker.visit().task().pid();
  const auto own = RELIVE_TRY(maker.visit().syscall("getpgid", SYS_getpgid, {0}));
  if (group == 0 || ::getpgid(pid.value) == group) return static_cast<std::int32_t>(own);
  if (RELIVE_TRY(task::read_proc_link(pid, "ns/pid")) ==
      RELIVE_TRY(task::read_proc_link(model::Pid{::getpid()}, "ns/pid")))
    return group;
  return fail(ErrorKind::unsupported, "a terminal's foreground process group is one of another pid namespace",
              "run relive inside the tasks' pid namespace");
}

// Appends ioctls on one number.
class Line {
 public:
  Line(FileMaker& maker, model::RemoteFd fd) : maker_(maker), fd_(fd) {}

  void set(std::string_view what, std::uint64_t request, std::uint64_t argument) {
    maker_.workshop().commit.syscall(fmt::format("ioctl {} {}", fd_.value, what), SYS_ioctl,
                                     {FileMaker::number(fd_), request, argument}, Program::OnError::go_on);
  }
  template <class T>
  Result<void> set_to(std::string_view what, std::uint64_t request, const T& value) {
    set(what, request, RELIVE_TRY(maker_.visit().arena().put_value(value)).value);
    return {};
  }

  // Everyone in the foreground is told by a signal; the task knows this size, and shall not be.
  Result<void> resize(const model::WindowSize& window) {
    RELIVE_TRY(set_to(
        "TIOCSWINSZ", TIOCSWINSZ,
        winsize{
            .ws_row = window.rows, .ws_col = window.columns, .ws_xpixel = window.width, .ws_ypixel = window.height}));
    if (RELIVE_TRY(task::is_pending(maker_.visit().task().pid(), SIGWINCH))) return {};
    auto& arena = maker_.visit().arena();
    const auto set = RELIVE_TRY(arena.put_value(std::uint64_t{1} << (SIGWINCH - 1)));
    const auto at_once = RELIVE_TRY(arena.put_value(timespec{}));
    maker_.workshop().commit.syscall("take SIGWINCH back", SYS_rt_sigtimedwait,
                                     {set.value, 0, at_once.value, sizeof(std::uint64_t)}, Program::OnError::go_on);
    return {};
  }

 private:
  FileMaker& maker_;
  model::RemoteFd fd_;
};

}  // namespace

Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t /*flags*/, const Terminal& wanted,
                       const Terminal& living) {
  if (wanted.hung_up || living.hung_up) return {};
  Line line(maker, fd);
  if (modes_go_back(wanted) && wanted.modes != living.modes)
    RELIVE_TRY(line.set_to("TCSETS2", kSetModes, wanted.modes));
  if (window_goes_back(wanted) && wanted.window != living.window) RELIVE_TRY(line.resize(wanted.window));
  if (wanted.exclusive != living.exclusive)
    line.set(wanted.exclusive ? "TIOCEXCL" : "TIOCNXCL", wanted.exclusive ? TIOCEXCL : TIOCNXCL, 0);
  if (wanted.foreground && living.controlling && (!living.foreground || wanted.front != living.front))
    RELIVE_TRY(line.set_to("TIOCSPGRP", TIOCSPGRP, RELIVE_TRY(group_in_task(maker, wanted.front))));
  // An incomplete line that showed nowhere would become readable.
  const bool shows = reads_lines(living) && !reads_lines(wanted);
  if (wanted.inside && (living.unread != 0 || shows)) line.set("TCFLSH", TCFLSH, TCIFLUSH);
  if (!wanted.master) return {};
  if (wanted.locked != living.locked) RELIVE_TRY(line.set_to("TIOCSPTLCK", TIOCSPTLCK, int{wanted.locked}));
  // Turning packet mode on throws status bytes away that wait to be read (pty_set_pktmode()).
  if (living.packets || wanted.packets) RELIVE_TRY(line.set_to("TIOCPKT", TIOCPKT, 0));
  if (wanted.packets) RELIVE_TRY(line.set_to("TIOCPKT", TIOCPKT, 1));
  return {};
}

Result<void> open_terminal(FileMaker& maker, std::size_t file, const model::OpenFile& wanted_file,
                           const model::DescriptorTable& living) {
  const auto& wanted = std::get<Terminal>(wanted_file.object);
  const auto path =
      RELIVE_TRY(maker.visit().arena().put(std::as_bytes(std::span(wanted.path.c_str(), wanted.path.size() + 1))));
  // O_NONBLOCK: a serial line does not wait for its carrier. The wanted flags are set at commit.
  const std::uint64_t flags = (wanted_file.status_flags & O_ACCMODE) | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;
  const auto opened =
      maker.make_one(file, "terminal", SYS_openat, {static_cast<std::uint64_t>(AT_FDCWD), path.value, flags});
  if (!opened) {
    if (opened.error().kind == ErrorKind::injected) return opened;
    return cannot_open(wanted, fmt::format("cannot be opened again: {}", opened.error().text()));
  }
  const UniqueFd ours = RELIVE_TRY(maker.borrow(file));
  struct stat status{};
  if (::fstat(ours.get(), &status) != 0) return fail_errno("fstat", wanted.path);
  if (!S_ISCHR(status.st_mode)) return cannot_open(wanted, "its name is no terminal now");
  const Terminal there =
      RELIVE_TRY(capture::look_at_terminal(ours.get(), status, maker.visit().task().pid(), wanted.path));
  // The number of a pseudo-terminal is another one's as soon as nobody has it open. It is the same one if the task had
  // it open all along, by another descriptor or as its controlling terminal; else the file must be of the same age.
  const bool kept = is_open(living, wanted) || (wanted.controlling && there.controlling);
  if (there.hung_up || !model::same_terminal(wanted, there) ||
      (!kept && is_slave(wanted.device) && there.created != wanted.created))
    return cannot_open(wanted, "its name is another terminal now");
  return put_right(maker, maker.spare(file), wanted_file.status_flags, wanted, there);
}

}  // namespace relive::apply
