#include <poll.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>

#include "capture/fdinfo.h"
#include "capture/opened.h"
#include "capture/survey.h"
#include "capture/terminals.h"
#include "task/procfs.h"

namespace relive::capture {

namespace {

using model::Terminal;

// asm-generic/ioctls.h; its own names need struct termios2, which <termios.h> does not get along with.
constexpr unsigned long kGetModes = _IOR('T', 0x2A, model::TerminalModes);  // TCGETS2

// What the ioctl answers; `otherwise` where this terminal does not know it.
template <class T>
T asked(int fd, unsigned long request, T otherwise) {
  T value{};
  return ::ioctl(fd, request, &value) == 0 ? value : otherwise;
}

std::uint64_t nanoseconds(const timespec& time) {
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(time.tv_nsec);
}

// Fields of /proc/PID/stat (proc_pid_stat(5)): the task's group, its controlling terminal and that one's group.
struct Jobs {
  std::int64_t group, terminal, foreground;
};
Result<Jobs> read_jobs(model::Pid pid) {
  const std::string stat = RELIVE_TRY(task::read_proc(pid, "stat"));
  const auto field = [&](int number) -> Result<std::int64_t> {
    const std::string_view text = RELIVE_TRY(task::stat_field(stat, number));
    const bool negative = text.starts_with('-');
    const auto value = static_cast<std::int64_t>(number_in(text.substr(negative ? 1 : 0), 10));
    return negative ? -value : value;
  };
  return Jobs{.group = RELIVE_TRY(field(5)), .terminal = RELIVE_TRY(field(7)), .foreground = RELIVE_TRY(field(8))};
}

}  // namespace

Result<Terminal> look_at_terminal(int ours, const struct stat& status, model::Pid pid, std::string path) {
  Terminal terminal;
  terminal.path = std::move(path);
  terminal.identity = {.device = status.st_dev, .inode = status.st_ino};
  terminal.created = nanoseconds(status.st_ctim);
  terminal.master = major(status.st_rdev) == 5 && minor(status.st_rdev) == 2;
  if (::ioctl(ours, kGetModes, terminal.modes.data()) != 0) {
    if (errno != EIO) return fail_errno("ioctl TCGETS2", terminal.path);
    terminal.hung_up = true;
    return terminal;
  }
  terminal.device = asked<unsigned>(ours, TIOCGDEV, 0);
  const auto window = asked<winsize>(ours, TIOCGWINSZ, {});
  terminal.window = {
      .rows = window.ws_row, .columns = window.ws_col, .width = window.ws_xpixel, .height = window.ws_ypixel};
  terminal.discipline = asked<int>(ours, TIOCGETD, 0);
  terminal.exclusive = asked<int>(ours, TIOCGEXCL, 0) != 0;
  if (terminal.master) {
    terminal.packets = asked<int>(ours, TIOCGPKT, 0) != 0;
    terminal.locked = asked<int>(ours, TIOCGPTLCK, 0) != 0;
  } else {
    const Jobs jobs = RELIVE_TRY(read_jobs(pid));
    terminal.controlling = jobs.terminal != 0 && static_cast<std::uint64_t>(jobs.terminal) == terminal.device;
    terminal.foreground = terminal.controlling && jobs.foreground == jobs.group;
    if (terminal.controlling) terminal.front = static_cast<std::int32_t>(jobs.foreground);
  }
  // Asking what is ready also brings what is on its way from the other end to the line discipline (n_tty_poll()).
  pollfd ready{.fd = ours, .events = POLLIN | POLLPRI, .revents = 0};
  if (::poll(&ready, 1, 0) < 0) return fail_errno("poll", terminal.path);
  terminal.status_pending = terminal.packets && (ready.revents & POLLPRI) != 0;
  terminal.unread = static_cast<std::uint32_t>(std::max(asked<int>(ours, FIONREAD, 0), 0));
  return terminal;
}

Result<model::FileObject> read_terminal(const Opened& opened) {
  Terminal terminal = RELIVE_TRY(look_at_terminal(opened.ours, opened.status, opened.table.task->pid(), opened.link));
  for (const Table& table : opened.tables)
    if (table.task != nullptr && terminal.controlling && ::getpgid(table.task->pid().value) == terminal.front)
      terminal.foreground = true;
  return model::FileObject(std::move(terminal));
}

void complete_terminals(const Survey& survey) {
  for (model::OpenFile& file : survey.table.open_files) {
    auto* const master = std::get_if<Terminal>(&file.object);
    if (master == nullptr || !master->master) continue;
    for (model::OpenFile& other : survey.table.open_files) {
      auto* const slave = std::get_if<Terminal>(&other.object);
      if (slave == nullptr || slave->master || slave->hung_up || slave->device != master->device) continue;
      master->inside = slave->inside = true;
    }
  }
}

}  // namespace relive::capture
