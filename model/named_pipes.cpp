#include "model/named_pipes.h"

#include <fmt/format.h>

namespace relive::model {

Words words(const NamedPipe& pipe) {
  std::string text = pipe.path;
  if (pipe.outside) text += ", the other end is outside";
  if (!pipe.bytes.empty()) text += fmt::format(", {} bytes in it", pipe.bytes.size());
  const char* const end = pipe.reads && pipe.writes ? "both ends" : pipe.writes ? "write end" : "read end";
  return {.kind = "named pipe", .detail = std::move(text), .phrase = fmt::format("named pipe {}, {}", pipe.path, end)};
}

}  // namespace relive::model
