#include "cli/probes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <linux/sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string_view>

#include "base/unique_fd.h"
#include "task/procfs.h"

namespace relive::cli {

namespace {

std::string reason(int error_number) { return strerrordesc_np(error_number); }

// A child that stands in pause(2) until this goes.
class Subject {
 public:
  Subject() : pid_(::fork()) {
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) ::pause();
  }
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;
  ~Subject() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, __WALL);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

Finding probe_ptrace(pid_t pid) {
  Finding finding{
      .name = "ptrace", .ok = false, .required = true, .detail = "", .refused = "everything: no task can be frozen"};
  int status = 0;
  if (::ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) != 0)
    finding.detail = "PTRACE_SEIZE of a child: " + reason(errno);
  else if (::ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) != 0 || ::waitpid(pid, &status, __WALL) != pid ||
           !WIFSTOPPED(status))
    finding.detail = "PTRACE_INTERRUPT of a child: " + reason(errno);
  else
    finding.ok = true, finding.detail = "a child was seized and stopped";
  return finding;
}

// REQUIRES: the subject is stopped under our ptrace.
Finding probe_seccomp_suspend(pid_t pid) {
  Finding finding{.name = "seccomp suspend",
                  .ok = false,
                  .required = false,
                  .detail = "",
                  .refused = "tasks whose seccomp filter forbids the calls that are needed"};
  constexpr long kSuspendSeccomp = 1L << 21;  // PTRACE_O_SUSPEND_SECCOMP
  finding.ok = ::ptrace(PTRACE_SETOPTIONS, pid, nullptr, kSuspendSeccomp) == 0;
  finding.detail = finding.ok ? "PTRACE_O_SUSPEND_SECCOMP was accepted"
                              : "PTRACE_O_SUSPEND_SECCOMP: " + reason(errno) + " (takes CAP_SYS_ADMIN)";
  return finding;
}

Finding probe_pidfd_getfd(pid_t pid) {
  Finding finding{.name = "pidfd_getfd",
                  .ok = false,
                  .required = true,
                  .detail = "",
                  .refused = "everything: no memory can be shared with a task"};
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const UniqueFd taken(pidfd ? static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), 0, 0)) : -1);
  finding.ok = taken.valid() || errno == EBADF;  // the child may well have no descriptor 0
  finding.detail = finding.ok ? "a child's descriptor was duplicated" : "pidfd_getfd: " + reason(errno);
  return finding;
}

Finding probe_remote_memory(pid_t pid) {
  Finding finding{.name = "process_vm_readv",
                  .ok = false,
                  .required = true,
                  .detail = "",
                  .refused = "everything: no memory can be read"};
  static const std::array<char, 8> word = {'r', 'e', 'l', 'i', 'v', 'e', '!', 0};
  std::array<char, 8> copy{};
  const iovec here{copy.data(), copy.size()};
  const iovec there{const_cast<char*>(word.data()), word.size()};
  finding.ok = ::process_vm_readv(pid, &here, 1, &there, 1, 0) == static_cast<ssize_t>(word.size()) && copy == word;
  finding.detail = finding.ok ? "a child's memory was read" : "process_vm_readv: " + reason(errno);
  return finding;
}

Finding probe_kcmp(pid_t pid) {
  Finding finding{.name = "kcmp",
                  .ok = false,
                  .required = false,
                  .detail = "",
                  .refused = "telling apart two opens of one file: such descriptors"};
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const long answer = ::syscall(SYS_kcmp, ::getpid(), pid, KCMP_FILES, 0, 0);
  finding.ok = answer >= 0;
  finding.detail = finding.ok ? "two descriptor tables were compared" : "kcmp: " + reason(errno);
  return finding;
}

// struct procmap_query of <linux/fs.h>, Linux 6.11; Debian 12's headers are older.
struct ProcmapQuery {
  std::uint64_t size, query_flags, query_addr, vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
  std::uint32_t dev_major, dev_minor, vma_name_size, build_id_size;
  std::uint64_t vma_name_addr, build_id_addr;
};

Finding probe_procmap_query(pid_t pid) {
  Finding finding{.name = "PROCMAP_QUERY",
                  .ok = false,
                  .required = false,
                  .detail = "",
                  .refused = "nothing: mappings are read as text, which is slower"};
  const auto maps = task::open_proc({pid}, "maps", O_RDONLY);
  if (!maps) {
    finding.detail = maps.error().text();
    return finding;
  }
  ProcmapQuery query{};
  query.size = sizeof query;
  query.query_addr = reinterpret_cast<std::uint64_t>(&probe_procmap_query);
  const unsigned long request = _IOWR('f', 17, ProcmapQuery);
  finding.ok = ::ioctl(maps->get(), request, &query) == 0;
  finding.detail = finding.ok ? "a mapping was looked up"
                              : "ioctl on /proc/PID/maps: " + (errno == ENOTTY ? "needs Linux 6.11" : reason(errno));
  return finding;
}

// clone3(2) with a thread id of our choice, as the task itself would have to do it.
Finding probe_set_tid() {
  Finding finding{.name = "chosen thread ids",
                  .ok = false,
                  .required = false,
                  .detail = "",
                  .refused = "bringing back threads that have ended"};
  pid_t wanted = 0;
  {
    const Subject used;  // its id is free once it is gone
    wanted = used.pid();
  }
  clone_args arguments{};
  arguments.exit_signal = SIGCHLD;
  arguments.set_tid = reinterpret_cast<std::uint64_t>(&wanted);
  arguments.set_tid_size = 1;
  const long child = ::syscall(SYS_clone3, &arguments, sizeof arguments);
  if (child == 0) ::_exit(0);
  if (child < 0) {
    finding.detail = fmt::format("clone3 with set_tid: {} (takes CAP_CHECKPOINT_RESTORE in the task)", reason(errno));
    return finding;
  }
  ::waitpid(static_cast<pid_t>(child), nullptr, 0);
  finding.ok = child == wanted;
  finding.detail = finding.ok ? "clone3 gave the id that was asked for" : "clone3 gave another id";
  return finding;
}

struct Capability {
  unsigned number;
  std::string_view name;
  std::string_view refused;
};

// Numbers from <linux/capability.h>.
constexpr std::array<Capability, 6> kCapabilities = {{
    {19, "CAP_SYS_PTRACE", "tasks of other users"},
    {40, "CAP_CHECKPOINT_RESTORE", "bringing back threads that have ended, where the task lacks it too"},
    {24, "CAP_SYS_RESOURCE", "raising a hard limit that the task has lowered"},
    {23, "CAP_SYS_NICE", "raising a priority that the task has lowered"},
    {14, "CAP_IPC_LOCK", "locking more memory again than the limit allows"},
    {21, "CAP_SYS_ADMIN", "suspending a task's seccomp filter"},
}};

std::vector<Finding> probe_capabilities() {
  std::uint64_t effective = 0;
  if (const auto status = task::read_proc({::getpid()}, "status"))
    effective = std::strtoull(std::string(task::status_field(*status, "CapEff")).c_str(), nullptr, 16);
  std::vector<Finding> findings;
  for (const auto& capability : kCapabilities) {
    const bool has = ((effective >> capability.number) & 1U) != 0;
    findings.push_back(
        {std::string(capability.name), has, false, has ? "in effect" : "missing", std::string(capability.refused)});
  }
  return findings;
}

}  // namespace

std::vector<Finding> probe_machine() {
  std::vector<Finding> findings;
  {
    const Subject subject;
    if (subject.pid() < 0) return {{"fork", false, true, reason(errno), "everything"}};
    findings.push_back(probe_ptrace(subject.pid()));
    if (findings.back().ok) findings.push_back(probe_seccomp_suspend(subject.pid()));
    findings.push_back(probe_pidfd_getfd(subject.pid()));
    findings.push_back(probe_remote_memory(subject.pid()));
    findings.push_back(probe_kcmp(subject.pid()));
    findings.push_back(probe_procmap_query(subject.pid()));
  }
  findings.push_back(probe_set_tid());
  for (auto& finding : probe_capabilities()) findings.push_back(std::move(finding));
  return findings;
}

}  // namespace relive::cli
