#include "files/labels.h"

#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

namespace relive::files {

namespace {

bool there_are_none(int error_number) { return error_number == ENOTSUP || error_number == ENODATA; }

// Asks for the size first, again where it has grown in between.
template <class Call>
Result<std::string> whole(Call call, const char* what, const std::string& object) {
  std::string bytes;
  for (;;) {
    const ssize_t size = call(nullptr, 0);
    if (size < 0 && there_are_none(errno)) return std::string();
    if (size < 0) return fail_errno(what, object);
    if (size == 0) return std::string();
    bytes.resize(static_cast<std::size_t>(size));
    const ssize_t got = call(bytes.data(), bytes.size());
    if (got < 0 && errno == ERANGE) continue;
    if (got < 0 && there_are_none(errno)) return std::string();
    if (got < 0) return fail_errno(what, object);
    bytes.resize(static_cast<std::size_t>(got));
    return bytes;
  }
}

}  // namespace

Result<Labels> read_labels(const Place& place) {
  const std::string path = place.through_proc();
  const std::string names = RELIVE_TRY(whole(
      [&](char* into, std::size_t size) { return ::llistxattr(path.c_str(), into, size); }, "llistxattr", place.name));
  Labels labels;
  for (std::string_view rest = names; !rest.empty();) {
    const std::string name(rest.substr(0, rest.find('\0')));
    rest.remove_prefix(std::min(name.size() + 1, rest.size()));
    labels[name] = RELIVE_TRY(
        whole([&](char* into, std::size_t size) { return ::lgetxattr(path.c_str(), name.c_str(), into, size); },
              "lgetxattr", place.name));
  }
  return labels;
}

Result<bool> write_labels(const Place& place, const Labels& wanted) {
  const Labels living = RELIVE_TRY(read_labels(place));
  if (living == wanted) return false;
  const std::string path = place.through_proc();
  for (const auto& [name, value] : living)
    if (!wanted.contains(name) && ::lremovexattr(path.c_str(), name.c_str()) != 0 && !there_are_none(errno))
      return fail_errno("lremovexattr " + name, place.name);
  for (const auto& [name, value] : wanted) {
    if (const auto known = living.find(name); known != living.end() && known->second == value) continue;
    if (::lsetxattr(path.c_str(), name.c_str(), value.data(), value.size(), 0) != 0)
      return fail_errno("lsetxattr " + name, place.name);
  }
  return true;
}

}  // namespace relive::files
