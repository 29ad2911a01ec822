#include "task/procfs.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/format.h>

namespace relive::task {

namespace {

std::string proc_path(model::Pid pid, std::string_view name) { return fmt::format("/proc/{}/{}", pid.value, name); }

// A file of /proc that has vanished means that its task has.
std::unexpected<Error> fail_proc(std::string_view call, const std::string& path) {
  const int error_number = errno == ENOENT ? ESRCH : errno;
  return fail_errno(call, path, error_number);
}

}  // namespace

Result<std::string> read_whole(int fd, const std::string& path) {
  std::string text;
  std::size_t used = 0;
  ssize_t got = 0;
  do {
    const std::size_t room = text.size() - used < 4096 ? std::max<std::size_t>(16384, text.size() * 2) : text.size();
    text.resize_and_overwrite(room, [&](char* bytes, std::size_t size) {
      got = ::read(fd, bytes + used, size - used);
      return size;
    });
    if (got > 0) used += static_cast<std::size_t>(got);
  } while (got > 0 || (got < 0 && errno == EINTR));
  if (got < 0) return fail_proc("read", path);
  text.resize(used);
  return text;
}

Result<std::string> read_proc(model::Pid pid, std::string_view name) {
  const std::string path = proc_path(pid, name);
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_proc("open", path);
  return read_whole(fd.get(), path);
}

Result<std::string> read_proc_link(model::Pid pid, std::string_view name) {
  const std::string path = proc_path(pid, name);
  std::array<char, 4096> target;
  const ssize_t size = ::readlink(path.c_str(), target.data(), target.size());
  if (size < 0) return fail_proc("readlink", path);
  return std::string(target.data(), static_cast<std::size_t>(size));
}

Result<void> write_proc(model::Pid pid, std::string_view name, std::string_view text) {
  const std::string path = proc_path(pid, name);
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return fail_proc("open", path);
  if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return fail_proc("write", path);
  return {};
}

Result<UniqueFd> open_proc(model::Pid pid, std::string_view name, int flags) {
  const std::string path = proc_path(pid, name);
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC));
  if (!fd) return fail_proc("open", path);
  return fd;
}

std::string_view status_field(std::string_view status, std::string_view name) {
  std::size_t at = 0;
  while (at < status.size()) {
    const std::size_t end = std::min(status.find('\n', at), status.size());
    const std::string_view line = status.substr(at, end - at);
    if (line.size() > name.size() && line.starts_with(name) && line[name.size()] == ':') {
      const std::string_view value = line.substr(name.size() + 1);
      const auto first = value.find_first_not_of(" \t");
      if (first == std::string_view::npos) return {};
      return value.substr(first, value.find_last_not_of(" \t") - first + 1);
    }
    at = end + 1;
  }
  return {};
}

Result<std::string_view> stat_field(std::string_view stat, int number) {
  const auto closing = stat.rfind(')');
  const auto opening = stat.find('(');
  if (closing == std::string_view::npos || opening == std::string_view::npos || opening > closing)
    return fail(ErrorKind::system, "stat file without a name in parentheses");
  if (number == 1) return stat.substr(0, opening - (opening > 0 ? 1 : 0));
  if (number == 2) return stat.substr(opening + 1, closing - opening - 1);
  std::size_t at = closing + 1;
  for (int field = 3;; ++field) {
    at = stat.find_first_not_of(" \n", at);
    if (at == std::string_view::npos) return fail(ErrorKind::system, fmt::format("stat file has no field {}", number));
    const std::size_t end = std::min(stat.find_first_of(" \n", at), stat.size());
    if (field == number) return stat.substr(at, end - at);
    at = end;
  }
}

}  // namespace relive::task
