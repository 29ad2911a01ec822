#include "model/files.h"

#include <fmt/format.h>

namespace relive::model {

Words words(const RegularFile& file) {
  std::string text = file.path;
  if (file.deleted && !text.ends_with("(deleted)")) text += " (deleted)";
  if (!file.directory) text += fmt::format(", at {}", file.position);
  return {.kind = file.directory ? "directory"
                  : file.memory  ? "memfd"
                                 : "file",
          .detail = std::move(text),
          .phrase = file.path};
}

Words words(const DeviceFile& file) { return {.kind = "device", .detail = file.path, .phrase = file.path}; }

Words words(const PipeEnd& pipe) {
  const char* const end = pipe.write_end ? "write" : "read";
  std::string text = fmt::format("{} end of pipe {}", end, pipe.identity.inode);
  if (pipe.outside) text += ", the other end is outside";
  if (!pipe.bytes.empty()) text += fmt::format(", {} bytes in it", pipe.bytes.size());
  return {.kind = "pipe", .detail = std::move(text), .phrase = fmt::format("pipe, {} end", end)};
}

}  // namespace relive::model
