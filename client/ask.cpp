#include "client/ask.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <ctime>

#include "base/log.h"

namespace relive::client {

namespace {

using namespace rollback;

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

// Does it begin to answer, or hang up, in time? An answer comes in one piece.
bool answers_within(int connection, int patience_ms) {
  if (patience_ms == kForEver) return true;
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::milliseconds(patience_ms);
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
    pollfd one{connection, POLLIN, 0};
    const int ready = ::poll(&one, 1, static_cast<int>(std::max<decltype(left)>(left, 0)));
    if (ready >= 0 || errno != EINTR) return ready != 0;
  }
}

}  // namespace

Request request(const TaskKey& key, decltype(Request::command) command) {
  const char* const fault = std::getenv("RELIVE_FAULT");
  return Request{key, fault != nullptr ? fault : "", std::move(command)};
}

Result<Answer> ask(const Registry& registry, const Request& request, int patience_ms) {
  const Standing before = standing(request.key);
  const UniqueFd connection = RELIVE_TRY(registry.connect(request.key));
  if (const auto sent = send_frame(connection.get(), encode(request)); !sent)
    log_debug(sent.error().text());  // it may still say why
  if (!answers_within(connection.get(), patience_ms))
    return std::unexpected(
        Error{ErrorKind::busy,
              fmt::format("the keeper of {} has not answered within {} ms; it goes on with what it was asked",
                          request.key.pid.value, patience_ms),
              ETIMEDOUT,
              fmt::format("relive list {} answers when it is done", request.key.pid.value),
              {}});
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

}  // namespace relive::client
