#include "task/signal_set.h"

#include <string>

#include "base/number.h"
#include "task/procfs.h"

namespace relive::task {

std::uint64_t signal_set(std::string_view status, std::string_view name) {
  const std::string_view text = status_field(status, name);
  return parse_number<std::uint64_t>(text, 16).value_or(0);
}

Result<bool> is_pending(model::Pid pid, int signal) {
  const std::string status = RELIVE_TRY(read_proc(pid, "status"));
  return (signal_set(status, "ShdPnd") >> (signal - 1) & 1U) != 0;
}

}  // namespace relive::task
