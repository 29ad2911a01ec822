#include "client/start_keeper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "rollback/keeper.h"
#include "rollback/protocol.h"

namespace relive::client {

namespace {

// Between fork and exec: only what may be done there. Never returns.
[[noreturn]] void become_keeper(int handshake, const char* program, const char* pid, const char* start_time) {
  ::setsid();
  if (::_Fork() != 0) ::_exit(0);  // so that the keeper leads no session and can never get a terminal
  ::dup2(handshake, rollback::kHandshake);
  ::syscall(SYS_close_range, rollback::kHandshake + 1, ~0U, 0);  // Linux 5.9
  const int null = ::open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) ::dup2(null, fd);
  if (null > rollback::kHandshake) ::close(null);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const std::array<const char*, 5> arguments = {"relive", "keeper", pid, start_time, nullptr};
  ::execv(program, const_cast<char* const*>(arguments.data()));
  ::_exit(127);
}

}  // namespace

Result<void> start_keeper(const rollback::TaskKey& key, const std::string& program) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe", "to the keeper");
  UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  if (to.get() <= rollback::kHandshake) {  // so that dup2 below neither keeps close-on-exec nor hits stdio
    UniqueFd higher(::fcntl(to.get(), F_DUPFD_CLOEXEC, rollback::kHandshake + 1));
    if (!higher) return fail_errno("dup", "of a pipe");
    to = std::move(higher);
  }
  const std::string pid = fmt::format("{}", key.pid.value);
  const std::string start_time = fmt::format("{}", key.start_time);
  const pid_t child = ::_Fork();
  if (child < 0) return fail_errno("fork", "for the keeper");
  if (child == 0) become_keeper(to.get(), program.c_str(), pid.c_str(), start_time.c_str());
  to.reset();
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  const auto word = rollback::receive_frame(from.get(), rollback::kRequestLimit);
  if (!word)
    return fail(ErrorKind::system, fmt::format("the keeper of {} could not be started", key.pid.value),
                fmt::format("is {} a relive of this release?", program));
  if (word->empty()) return {};
  return std::unexpected(RELIVE_TRY(rollback::decode_error(*word)));
}

}  // namespace relive::client
