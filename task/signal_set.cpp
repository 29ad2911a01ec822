#include "task/signal_set.h"

#include <charconv>

#include "task/procfs.h"

namespace relive::task {

std::uint64_t signal_set(std::string_view status, std::string_view name) {
  const std::string_view text = status_field(status, name);
  std::uint64_t bits = 0;
  std::from_chars(text.data(), text.data() + text.size(), bits, 16);
  return bits;
}

}  // namespace relive::task
