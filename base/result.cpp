#include "base/result.h"

#include <cerrno>
#include <cstring>

namespace relive {

std::string Error::text() const {
  std::string out;
  for (auto it = context.rbegin(); it != context.rend(); ++it) out += *it + ": ";
  out += what;
  if (errno_value != 0) out += std::string(": ") + strerrordesc_np(errno_value);
  if (!hint.empty()) out += " (" + hint + ")";
  return out;
}

std::unexpected<Error> fail(ErrorKind kind, std::string what, std::string hint) {
  return std::unexpected(
      Error{.kind = kind, .what = std::move(what), .errno_value = 0, .hint = std::move(hint), .context = {}});
}

std::unexpected<Error> fail_errno(std::string_view call, std::string_view object) {
  return fail_errno(call, object, errno);
}

std::unexpected<Error> fail_errno(std::string_view call, std::string_view object, int error_number) {
  ErrorKind kind = ErrorKind::system;
  if (error_number == EPERM || error_number == EACCES) kind = ErrorKind::permission;
  if (error_number == ESRCH) kind = ErrorKind::task_died;
  if (error_number == ENOSYS) kind = ErrorKind::unsupported;
  std::string what(call);
  if (!object.empty()) what.append(" ").append(object);
  return std::unexpected(
      Error{.kind = kind, .what = std::move(what), .errno_value = error_number, .hint = {}, .context = {}});
}

}  // namespace relive
