#include "rollback/client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <ctime>

#include "base/log.h"

namespace relive::rollback {

namespace {

constexpr int kHandshake = 3;  // the keeper's only inherited descriptor besides stdio

void pause_briefly() {
  const timespec pause{0, 5'000'000};
  ::nanosleep(&pause, nullptr);
}

// The keeper's death lets its task go; the kernel may take a moment to do it.
Standing settled_standing(const TaskKey& key) {
  for (int attempt = 0; attempt < 200; ++attempt) {
    const Standing now = standing(key);
    if (now != Standing::traced) return now;
    pause_briefly();
  }
  return Standing::traced;
}

// Does nobody answer at the socket any more (which is then removed)? A dying process closes one descriptor after the
// other, so it is asked for a while.
bool is_gone(const Registry& registry, const TaskKey& key) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (!registry.connect(key)) return true;
    pause_briefly();
  }
  return false;
}

Result<Answer> no_answer(const Registry& registry, const Request& request, Standing before) {
  if (!is_gone(registry, request.key))
    return fail(ErrorKind::system,
                fmt::format("the keeper of {} hung up without an answer; it is still there", request.key.pid.value),
                "give the command again");
  const int pid = request.key.pid.value;
  const Standing now = settled_standing(request.key);
  const bool rollback = std::holds_alternative<RollbackOptions>(request.command);
  std::string what = fmt::format("the keeper of {} died in the middle of the request; ", pid);
  switch (now) {
    case Standing::gone:
    case Standing::zombie:
      return fail(ErrorKind::task_died, what + "the task has ended too");
    case Standing::stopped:
    case Standing::traced:
      if (now == Standing::stopped && before == Standing::stopped) {
        what += "the task is stopped, as it was before";
        break;
      }
      what += "the task is left stopped";
      if (!rollback) break;
      {
        RollbackReport report;
        report.fate = apply::Fate::stopped;
        report.error = Error{ErrorKind::system,
                             what,
                             0,
                             fmt::format("kill -CONT {} lets it run on, kill -KILL {} ends it", pid, pid),
                             {}};
        return report;
      }
    case Standing::runs:
      what += "the task runs on";
      break;
  }
  if (rollback) what += ", either as if nothing had been asked or at the snapshot";
  return fail(ErrorKind::system, what, fmt::format("its snapshots are gone; relive snapshot {} starts anew", pid));
}

// Between fork and exec: only what may be done there. Never returns.
[[noreturn]] void become_keeper(int handshake, const char* pid, const char* start_time) {
  ::setsid();
  if (::fork() != 0) ::_exit(0);  // so that the keeper leads no session and can never get a terminal
  ::dup2(handshake, kHandshake);
  ::syscall(SYS_close_range, kHandshake + 1, ~0U, 0);  // Linux 5.9
  const int null = ::open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) ::dup2(null, fd);
  if (null > kHandshake) ::close(null);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const std::array<const char*, 5> arguments = {"relive", "keeper", pid, start_time, nullptr};
  ::execv("/proc/self/exe", const_cast<char* const*>(arguments.data()));
  ::_exit(127);
}

}  // namespace

Result<Answer> ask(const Registry& registry, const Request& request) {
  const Standing before = standing(request.key);
  const UniqueFd connection = RELIVE_TRY(registry.connect(request.key));
  if (const auto sent = send_frame(connection.get(), encode(request)); !sent)
    log_debug(sent.error().text());  // it may still say why
  const auto response = receive_frame(connection.get(), kResponseLimit);
  if (!response && response.error().kind == ErrorKind::usage) return std::unexpected(response.error());
  if (!response) return no_answer(registry, request, before);
  return decode_response(*response);
}

Result<ImageReport> ask_for_image(const Registry& registry, const Request& request,
                                  const std::function<void(const ImageProgress&)>& progress) {
  const UniqueFd connection = RELIVE_TRY(registry.connect(request.key));
  if (const auto sent = send_frame(connection.get(), encode(request)); !sent) log_debug(sent.error().text());
  for (;;) {
    const auto response = receive_frame(connection.get(), kResponseLimit);
    if (!response)
      return fail(ErrorKind::system, "whoever wrote the image has died",
                  "the snapshot is kept; give the command again");
    const Answer answer = RELIVE_TRY(decode_response(*response));
    if (const auto* done = std::get_if<ImageReport>(&answer)) return *done;
    const auto* part = std::get_if<ImageProgress>(&answer);
    if (part == nullptr) return fail(ErrorKind::system, "the keeper answered something else than what it was asked");
    progress(*part);
  }
}

Result<void> start_keeper(const TaskKey& key) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe", "to the keeper");
  UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  if (to.get() <= kHandshake) {  // so that dup2 below neither keeps close-on-exec nor hits stdio
    UniqueFd higher(::fcntl(to.get(), F_DUPFD_CLOEXEC, kHandshake + 1));
    if (!higher) return fail_errno("dup", "of a pipe");
    to = std::move(higher);
  }
  const std::string pid = fmt::format("{}", key.pid.value);
  const std::string start_time = fmt::format("{}", key.start_time);
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("fork", "for the keeper");
  if (child == 0) become_keeper(to.get(), pid.c_str(), start_time.c_str());
  to.reset();
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  const auto word = receive_frame(from.get(), kRequestLimit);
  if (!word) return fail(ErrorKind::system, fmt::format("the keeper of {} could not be started", key.pid.value));
  if (word->empty()) return {};
  return std::unexpected(RELIVE_TRY(decode_error(*word)));
}

}  // namespace relive::rollback
