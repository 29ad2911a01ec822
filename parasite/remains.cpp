#include "parasite/remains.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <span>
#include <system_error>

#include <fmt/format.h>

#include "parasite/arena.h"
#include "parasite/remote_syscall.h"
#include "task/procfs.h"
#include "task/stat_text.h"

namespace relive::parasite {

namespace {

std::string file_name(std::string_view name) { return fmt::format("/memfd:{} (deleted)", name); }

// A keeper maps the same files in itself, otherwise: no code, and pages that it may write.
bool is_code(const MapsLine& line) {
  return line.permissions == "r-xs" && line.line.ends_with(file_name(kParasiteName));
}
bool is_pages(const MapsLine& line) { return line.permissions == "r--s" && line.line.ends_with(file_name(kPagesName)); }
bool is_arena_of(const MapsLine& line, const MapsLine& code) {
  return line.range.begin == code.range.end && line.line.ends_with(file_name(kParasiteName));
}

std::optional<std::uint64_t> start_time(pid_t pid) {
  const auto stat = task::read_proc(model::Pid{pid}, "stat");
  if (!stat) return std::nullopt;
  const auto ticks = task::start_time(*stat);
  const auto state = task::stat_field(*stat, 3);
  if (!ticks || !state || *state == "Z" || *state == "X") return std::nullopt;
  return *ticks;
}

Result<std::uint64_t> own_pid_namespace() {
  struct stat seen{};
  if (::stat("/proc/self/ns/pid", &seen) != 0) return fail_errno("stat", "/proc/self/ns/pid");
  return seen.st_ino;
}

Result<void> refuse_living(model::Pid task, const wire::Owner& owner) {
  if (owner.magic != wire::kOwnerMagic || owner.pid == ::getpid()) return {};
  constexpr std::string_view hint = "its user can drop the snapshots (relive drop --all), with its RELIVE_RUNTIME_DIR";
  if (owner.pid_namespace != RELIVE_TRY(own_pid_namespace()))
    return fail(ErrorKind::busy,
                fmt::format("task {} has a keeper in another pid namespace (of user {})", task.value, owner.user),
                std::string(hint));
  if (start_time(owner.pid) != owner.start_time) return {};
  return fail(
      ErrorKind::busy,
      fmt::format("task {} has another keeper already: process {} of user {}", task.value, owner.pid, owner.user),
      std::string(hint));
}

std::vector<int> find_descriptors(model::Pid pid) {
  std::vector<int> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid.value), error)) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target != file_name(kParasiteName) && target != file_name(kPagesName)) continue;
    found.push_back(std::atoi(entry.path().filename().c_str()));
  }
  return found;
}

}  // namespace

Result<wire::Owner> ourselves() {
  const auto start = start_time(::getpid());
  if (!start) return fail(ErrorKind::system, "/proc/self/stat cannot be read");
  return wire::Owner{.magic = wire::kOwnerMagic,
                     .pid = ::getpid(),
                     .user = ::geteuid(),
                     .start_time = *start,
                     .pid_namespace = RELIVE_TRY(own_pid_namespace())};
}

Result<Remains> find_remains(task::FrozenTask& task, std::string_view maps_text) {
  Remains remains;
  bool keeper = false;  // of another task, itself
  std::size_t at = 0;
  MapsLine before;
  std::uint64_t arena_end = 0;
  for (MapsLine line; next_line(maps_text, at, line); before = line) {
    const bool agreement = line.range.begin == arena_end && line.line.ends_with(file_name(kParasiteName));
    if (is_code(line) || is_pages(line) || agreement) {
      remains.mappings.push_back(line.range);
      continue;
    }
    if (before.line.empty() || !is_code(before) || !is_arena_of(line, before)) {
      keeper = keeper || line.line.ends_with(file_name(kParasiteName));
      continue;
    }
    remains.mappings.push_back(line.range);
    arena_end = line.range.end;
    wire::Owner owner{};
    RELIVE_TRY(task.read(model::TaskAddress{line.range.begin + wire::kOwnerOffset},
                         std::as_writable_bytes(std::span(&owner, 1))));
    RELIVE_TRY(refuse_living(task.pid(), owner));
  }
  if (!keeper) remains.descriptors = find_descriptors(task.pid());
  for (const task::FrozenThread& thread : task.threads()) {
    const auto stands_in = [&](const AddressRange& range) {
      return range.contains(thread.registers.rip) || range.contains(thread.registers.rsp);
    };
    if (std::ranges::any_of(remains.mappings, stands_in))
      return fail(ErrorKind::busy,
                  fmt::format("thread {} is on its way out of a rollback whose keeper has died", thread.tid.value),
                  "try again; if it stays so, the kernel had broken the rollback off and the task cannot go on");
  }
  return remains;
}

}  // namespace relive::parasite
