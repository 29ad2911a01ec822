#include "capture/fdinfo.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/unique_fd.h"
#include "task/procfs.h"

namespace relive::capture {

Result<std::string> read_fdinfo(int directory, model::RemoteFd fd) {
  const std::string name = fmt::format("{}", fd.value);
  const UniqueFd file(::openat(directory, name.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return fail_errno("open", "fdinfo of descriptor " + name);
  return task::read_whole(file.get(), "fdinfo of descriptor " + name);
}

std::optional<std::string_view> word_after(std::string_view text, std::string_view name) {
  const std::size_t found = text.find(name);
  if (found == std::string_view::npos) return std::nullopt;
  text.remove_prefix(found + name.size());
  const std::size_t start = text.find_first_not_of(" \t");
  if (start == std::string_view::npos) return std::nullopt;
  text.remove_prefix(start);
  return text.substr(0, text.find_first_of(" \t\n"));
}

std::uint64_t number_in(std::string_view text, int base) {
  std::uint64_t value = 0;
  const std::size_t start = text.find_first_not_of(" \t");
  if (start == std::string_view::npos) return 0;
  text.remove_prefix(start);
  std::from_chars(text.data(), text.data() + text.size(), value, base);
  return value;
}

std::string_view take_line(std::string_view& text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return line;
}

}  // namespace relive::capture
