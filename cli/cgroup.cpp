#include "cli/cgroup.h"

#include <fmt/format.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <system_error>

#include "cli/output.h"
#include "task/procfs.h"

namespace relive::cli {

namespace {

namespace fs = std::filesystem;

Result<void> add_tasks(const fs::path& directory, std::map<pid_t, pid_t>& parents) {
  const fs::path list = directory / "cgroup.procs";
  std::ifstream file(list);
  if (!file)
    return fail(ErrorKind::not_found, fmt::format("{} is no control group", printable(directory.string())),
                "PATH is a directory that has a cgroup.procs, somewhere below /sys/fs/cgroup");
  pid_t pid = 0;
  while (file >> pid) {
    if (pid == 0)
      return fail(ErrorKind::refused,
                  fmt::format("{} has tasks that cannot be seen from here", printable(directory.string())),
                  "run relive in their pid namespace, or above it");
    const auto stat = task::read_proc(model::Pid{pid}, "stat");
    if (!stat) continue;  // it has ended
    if (RELIVE_TRY(task::stat_field(*stat, 3)) == "Z") continue;
    parents[pid] = std::atoi(std::string(RELIVE_TRY(task::stat_field(*stat, 4))).c_str());  // NOLINT: it is a number
  }
  // A threaded group does not tell.
  if (!file.eof()) return fail_errno("reading", printable(list.string()), EOPNOTSUPP);
  return {};
}

}  // namespace

Result<model::Pid> root_of_cgroup(const std::string& directory) {
  std::map<pid_t, pid_t> parents;
  RELIVE_TRY(add_tasks(directory, parents));
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(directory, error))
    if (entry.is_directory(error)) RELIVE_TRY(add_tasks(entry.path(), parents));
  std::string roots;
  pid_t root = 0;
  int count = 0;
  for (const auto& [pid, parent] : parents) {
    if (parents.contains(parent)) continue;
    root = pid;
    ++count;
    roots += fmt::format("{}{}", roots.empty() ? "" : ", ", pid);
  }
  const std::string name = printable(directory);
  if (count == 0) return fail(ErrorKind::not_found, fmt::format("{} has no task", name));
  if (count > 1)
    return fail(ErrorKind::refused,
                fmt::format("{} has {} tasks whose parents are outside of it: {}", name, count, roots),
                "name one of them by its PID");
  return model::Pid{root};
}

}  // namespace relive::cli
