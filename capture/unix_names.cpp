#include "capture/unix_names.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace relive::capture {

namespace {

constexpr unsigned long kUnixFile = SIOCPROTOPRIVATE + 0;  // SIOCUNIXFILE of linux/un.h
constexpr std::string_view kDeleted = " (deleted)";

std::string link_of(const std::string& path) {
  std::array<char, 4096> target{};
  const ssize_t size = ::readlink(path.c_str(), target.data(), target.size());
  return {target.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0))};
}

bool is_it(const struct stat& status, const model::SocketFile& file) {
  return S_ISSOCK(status.st_mode) && static_cast<std::uint32_t>(status.st_ino) == file.inode;
}

}  // namespace

std::string directory_of_name(std::string_view path, std::string_view relative) {
  if (relative.starts_with('/') || !path.starts_with('/') || !path.ends_with(relative)) return {};
  path.remove_suffix(relative.size());
  if (!path.ends_with('/')) return {};
  if (path.size() > 1) path.remove_suffix(1);
  return std::string(path);
}

Result<void> complete_name(const Survey& survey, std::size_t index, model::Socket& socket) {
  const std::string name = model::path_of(socket);
  const bool relative = model::is_relative(socket);
  const Table& table = survey.at(survey.first[index].table);
  model::SocketFile& file = *socket.file;
  struct stat status{};
  const UniqueFd duplicate = RELIVE_TRY(survey.borrow(survey.first[index]));
  if (const UniqueFd itself(::ioctl(duplicate.get(), kUnixFile, 0)); itself && ::fstat(itself.get(), &status) == 0) {
    file.path = link_of(fmt::format("/proc/self/fd/{}", itself.get()));
    file.deleted = status.st_nlink == 0;
    if (file.deleted && file.path.ends_with(kDeleted)) file.path.resize(file.path.size() - kDeleted.size());
    if (relative) file.directory = directory_of_name(file.path, name);
  }
  const bool told = !file.directory.empty();
  // The name as the task would look it up now.
  const std::string base =
      told ? file.directory
           : fmt::format("/proc/{}/task/{}/{}", table.task->pid().value, table.thread.value, relative ? "cwd" : "root");
  if (::lstat(fmt::format("{}/{}", base, name).c_str(), &status) != 0 || !is_it(status, file)) return {};
  file.there = true;
  file.mode = status.st_mode & ALLPERMS;
  file.owner = status.st_uid;
  file.group = status.st_gid;
  if (relative && !told) file.directory = link_of(base);
  if (file.path.empty()) file.path = relative ? fmt::format("{}/{}", file.directory, name) : name;
  return {};
}

UniqueFd open_name_directory(const model::Socket& socket) {
  if (!socket.file || socket.file->directory.empty() || !model::is_relative(socket)) return {};
  UniqueFd directory(::open(socket.file->directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory || !socket.file->there) return directory;
  // A path of another mount namespace may lead elsewhere.
  struct stat status{};
  const bool right = ::fstatat(directory.get(), model::path_of(socket).c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
                     is_it(status, *socket.file);
  return right ? std::move(directory) : UniqueFd();
}

}  // namespace relive::capture
