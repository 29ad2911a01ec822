// The text of /proc/PID/fdinfo/N (proc(5)): lines of "name:" and words.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "model/ids.h"

namespace relive::capture {

// The text for one descriptor, from the open directory /proc/PID/fdinfo.
Result<std::string> read_fdinfo(int directory, model::RemoteFd fd);

// The word behind the first "NAME:" (`name` with its colon), spaces before it skipped.
[[nodiscard]] std::optional<std::string_view> word_after(std::string_view text, std::string_view name);
// A number at the beginning of `text`, spaces before it skipped; 0 if there is none.
[[nodiscard]] std::uint64_t number_in(std::string_view text, int base);
// Takes one line off the front of `text`, without its end.
[[nodiscard]] std::string_view take_line(std::string_view& text);

}  // namespace relive::capture
