// Errors as values.
//
// Every fallible function returns Result<T>. RELIVE_TRY is the one spelling to pass an error on:
//
//     const int fd = RELIVE_TRY(open_file(path));
//
// No exception crosses a function of ours, and nothing aborts while a task stands still.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace relive {

// What the caller can do about an error. The exit code follows from it (cli/exit_code.h).
enum class ErrorKind : std::uint8_t {
  usage,        // the call's words are wrong: call again, corrected
  not_found,    // no such task, snapshot, keeper: name another
  refused,      // the state cannot be rolled back or captured; the object is named; nothing was changed
  permission,   // the kernel does not let this user do it
  busy,         // another command or a debugger is at work on the task: try later
  unsupported,  // this kernel, machine or release of relive lacks what is needed
  task_died,    // the task ended while it was being worked on
  system,       // a system call failed that should not fail
  injected,     // a fault that a test asked for (base/fault.h)
};

// An error: kind, what happened to which object, errno where a system call failed (else 0), what to do next, and the
// chain of what was being attempted, innermost first.
struct Error {
  ErrorKind kind = ErrorKind::system;
  std::string what;
  int errno_value = 0;
  std::string hint;
  std::vector<std::string> context;

  // The whole story in one line: "context: context: what: strerror (hint)".
  [[nodiscard]] std::string text() const;
};

template <class T = void>
using Result = std::expected<T, Error>;

[[nodiscard]] std::unexpected<Error> fail(ErrorKind kind, std::string what, std::string hint = {});

// The system call `call` on `object` failed with `error_number` (default: errno). EPERM and EACCES become
// ErrorKind::permission, ESRCH becomes task_died, ENOSYS unsupported, everything else system.
[[nodiscard]] std::unexpected<Error> fail_errno(std::string_view call, std::string_view object);
[[nodiscard]] std::unexpected<Error> fail_errno(std::string_view call, std::string_view object, int error_number);

// Adds what was being attempted to an error on its way up.
template <class T>
[[nodiscard]] Result<T> with_context(Result<T> result, std::string_view attempting) {
  if (!result) result.error().context.emplace_back(attempting);
  return result;
}

}  // namespace relive

#define RELIVE_CONCAT_INNER(a, b) a##b
#define RELIVE_CONCAT(a, b) RELIVE_CONCAT_INNER(a, b)
#define RELIVE_TRY_NAMED(name, ...)                                         \
  ({                                                                        \
    auto&& name = (__VA_ARGS__);                                            \
    if (!name.has_value()) return std::unexpected(std::move(name).error()); \
    *std::move(name);                                                       \
  })
#define RELIVE_TRY(...) RELIVE_TRY_NAMED(RELIVE_CONCAT(relive_try_, __COUNTER__), __VA_ARGS__)
