#include "rollback/registry.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>

#include "base/number.h"
#include "task/procfs.h"
#include "task/stat_text.h"

namespace relive::rollback {

namespace {

constexpr std::string_view kFiles = ".files";
constexpr std::string_view kSocket = ".sock";
constexpr std::string_view kLock = ".lock";

std::string directory_name() {
  if (const char* forced = std::getenv("RELIVE_RUNTIME_DIR"); forced != nullptr && *forced != '\0') return forced;
  if (::geteuid() == 0) return "/run/relive";
  if (const char* user = std::getenv("XDG_RUNTIME_DIR"); user != nullptr && *user == '/')
    return std::string(user) + "/relive";
  return fmt::format("/tmp/relive-{}", ::geteuid());
}

Result<sockaddr_un> socket_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return fail(ErrorKind::system, "socket path is too long: " + path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

}  // namespace

std::string TaskKey::stem() const { return fmt::format("{}-{}", pid.value, start_time); }

std::optional<TaskKey> TaskKey::parse(std::string_view stem) {
  const auto dash = stem.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto pid = parse_number<pid_t>(stem.substr(0, dash));
  const auto start_time = parse_number<std::uint64_t>(stem.substr(dash + 1));
  if (!pid || *pid <= 0 || !start_time) return std::nullopt;
  return TaskKey{.pid = model::Pid{*pid}, .start_time = *start_time};
}

Result<TaskKey> identify(model::Pid pid) {
  const auto missing = [&] {
    return fail(ErrorKind::not_found, fmt::format("no task {}", pid.value), "it has ended, or the number is wrong");
  };
  const auto stat = task::read_proc(pid, "stat");
  const auto status = task::read_proc(pid, "status");
  if (!stat || !status) return missing();
  const TaskKey key{.pid = pid, .start_time = RELIVE_TRY(task::start_time(*stat))};
  if (const auto leader = task::status_field(*status, "Tgid"); leader != fmt::format("{}", pid.value))
    return fail(ErrorKind::refused, fmt::format("{} is a thread of task {}", pid.value, leader),
                fmt::format("name the task: {}", leader));
  if (standing(key) == Standing::zombie)
    return fail(ErrorKind::refused,
                fmt::format("task {} is a zombie: it has ended and waits for its parent", pid.value));
  return key;
}

Standing standing(const TaskKey& key) {
  const auto stat = task::read_proc(key.pid, "stat");
  if (!stat) return Standing::gone;
  const auto state = task::stat_field(*stat, 3);
  const auto threads = task::stat_field(*stat, 20);
  const auto start = task::stat_field(*stat, 22);
  if (!state || !threads || !start || *start != fmt::format("{}", key.start_time)) return Standing::gone;
  if (*state == "T") return Standing::stopped;
  if (*state == "t") return Standing::traced;
  const bool leader_ended = *state == "Z" || *state == "X";
  if (leader_ended && *threads == "1") return Standing::zombie;  // else its other threads live on
  return Standing::runs;
}

CommandLock::~CommandLock() {
  if (file_)
    ::unlink(path_.c_str());  // while it is still held: whoever opened it meanwhile looks again (Registry::lock)
}

Result<Registry> Registry::open() {
  std::string path = directory_name();
  constexpr std::string_view advice = "name another directory in RELIVE_RUNTIME_DIR";
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return with_context<Registry>(fail_errno("mkdir", path), advice);
  UniqueFd directory(::open(path.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory) return with_context<Registry>(fail_errno("open", path), advice);
  struct stat status{};
  if (::fstat(directory.get(), &status) != 0) return fail_errno("stat", path);
  if (status.st_uid != ::geteuid() || (status.st_mode & 077) != 0)
    return fail(ErrorKind::refused,
                fmt::format("{} belongs to user {} with mode {:04o}; it must be yours alone (0700)", path,
                            status.st_uid, status.st_mode & 07777),
                std::string(advice));
  return Registry(std::move(directory), std::move(path));
}

std::string Registry::short_path(std::string_view name) const {
  return fmt::format("/proc/self/fd/{}/{}", directory_.get(), name);
}

bool Registry::knows(const TaskKey& key) const {
  return ::access(short_path(key.stem() + std::string(kSocket)).c_str(), F_OK) == 0;
}

Result<UniqueFd> Registry::connect(const TaskKey& key) const {
  const sockaddr_un address = RELIVE_TRY(socket_address(short_path(key.stem() + std::string(kSocket))));
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno("socket", "for the keeper");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  const int error_number = errno;
  const Standing now = standing(key);
  const bool over = now == Standing::gone || now == Standing::zombie;
  if (error_number == ENOENT && over)
    return fail(ErrorKind::not_found, fmt::format("task {} has ended; there are no snapshots of it", key.pid.value));
  if (error_number == ENOENT)
    return fail(ErrorKind::not_found, fmt::format("task {} has no snapshots", key.pid.value),
                fmt::format("relive snapshot {} takes one", key.pid.value));
  if (error_number != ECONNREFUSED)
    return fail_errno("connect", fmt::format("to the keeper of {}", key.pid.value), error_number);
  forget(key);
  return fail(ErrorKind::not_found,
              fmt::format("the keeper of {} is gone; its snapshots went with it; the task {}", key.pid.value,
                          over                       ? "has ended"
                          : now == Standing::stopped ? "is stopped"
                                                     : "runs on"),
              over ? std::string{} : fmt::format("relive snapshot {} starts anew", key.pid.value));
}

Result<UniqueFd> Registry::listen(const TaskKey& key) const {
  const std::string name = key.stem() + std::string(kSocket);
  const std::string unready = short_path(key.stem() + ".new");
  const sockaddr_un address = RELIVE_TRY(socket_address(unready));
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("socket", "for the keeper");
  ::unlink(unready.c_str());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return fail_errno("bind", path_ + "/" + name);
  if (::listen(fd.get(), 16) != 0) return fail_errno("listen", path_ + "/" + name);
  // Under its name only now: a socket that is bound and does not listen yet would look like that of a dead keeper.
  if (::rename(unready.c_str(), short_path(name).c_str()) != 0) return fail_errno("rename", path_ + "/" + name);
  return fd;
}

void Registry::forget(const TaskKey& key) const {
  ::unlink(short_path(key.stem() + std::string(kSocket)).c_str());
  const std::string lock_path = short_path(key.stem() + std::string(kLock));
  const UniqueFd lock_file(::open(lock_path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (lock_file && ::flock(lock_file.get(), LOCK_EX | LOCK_NB) == 0) ::unlink(lock_path.c_str());
}

// Pairs of names, each with a NUL behind it: no path has one in it.
Result<void> Registry::note_files(const TaskKey& key, const std::vector<FilesOf>& files) const {
  std::string text;
  const auto known = files_of(key);
  for (const FilesOf& one : files)
    if (std::ranges::find(known, one) == known.end()) text += one.directory + '\0' + one.store + '\0';
  const UniqueFd file(::open(short_path(key.stem() + std::string(kFiles)).c_str(),
                             O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return fail_errno("open", path_);
  if (::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return fail_errno("write", path_);
  return {};
}

std::vector<Registry::FilesOf> Registry::files_of(const TaskKey& key) const {
  std::ifstream file(short_path(key.stem() + std::string(kFiles)), std::ios::binary);
  std::vector<FilesOf> found;
  for (FilesOf one; std::getline(file, one.directory, '\0') && std::getline(file, one.store, '\0');)
    found.push_back(one);
  return found;
}

void Registry::forget_files(const TaskKey& key) const {
  ::unlink(short_path(key.stem() + std::string(kFiles)).c_str());
}

std::vector<TaskKey> Registry::keepers() const {
  std::vector<TaskKey> found;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(short_path("").c_str()), ::closedir);
  if (!directory) return found;
  while (const dirent* entry = ::readdir(directory.get())) {
    const std::string_view name = entry->d_name;
    if (!name.ends_with(kSocket)) continue;
    if (const auto key = TaskKey::parse(name.substr(0, name.size() - kSocket.size()))) found.push_back(*key);
  }
  std::ranges::sort(found);
  return found;
}

Result<CommandLock> Registry::lock(const TaskKey& key, std::string_view command) const {
  const std::string path = path_ + "/" + key.stem() + std::string(kLock);
  for (;;) {
    UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file) return fail_errno("open", path);
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return fail_errno("flock", path);
      char text[96] = {};
      std::string_view holder(
          text, static_cast<std::size_t>(std::max<ssize_t>(0, ::pread(file.get(), text, sizeof text, 0))));
      while (holder.ends_with('\n')) holder.remove_suffix(1);
      return fail(ErrorKind::busy,
                  fmt::format("another command is at work on task {}: {}", key.pid.value,
                              holder.empty() ? "not yet named" : holder),
                  "wait until it is done");
    }
    struct stat held{};
    struct stat named{};
    const bool current = ::fstat(file.get(), &held) == 0 && ::stat(path.c_str(), &named) == 0 &&
                         held.st_ino == named.st_ino && held.st_dev == named.st_dev;
    if (!current) continue;  // its last holder removed it between our open and our flock
    const std::string text = fmt::format("pid {} ({})\n", ::getpid(), command);
    if (::ftruncate(file.get(), 0) != 0 || ::pwrite(file.get(), text.data(), text.size(), 0) < 0)
      return fail_errno("write", path);
    return CommandLock(std::move(file), path);
  }
}

}  // namespace relive::rollback
