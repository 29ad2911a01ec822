// Descriptor tables by hand.
#pragma once

#include <fcntl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/descriptor.h"

namespace relive {

inline std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

inline model::OpenFile regular(std::string path, std::uint64_t inode, std::int64_t position = 0) {
  return {.status_flags = O_RDWR,
          .object = model::RegularFile{.path = std::move(path), .identity = {1, inode}, .position = position}};
}
inline model::OpenFile pipe_end(std::uint64_t inode, bool write_end, std::string_view bytes = {},
                                bool outside = false) {
  return {.status_flags = write_end ? std::uint32_t{O_WRONLY} : 0U,
          .object = model::PipeEnd{.identity = {2, inode},
                                   .write_end = write_end,
                                   .outside = outside,
                                   .capacity = 65536,
                                   .bytes = bytes_of(bytes)}};
}
inline model::OpenFile counter(std::uint64_t id, std::uint64_t count) {
  return {.status_flags = O_RDWR, .object = model::EventCounter{.id = id, .count = count}};
}
struct Builder {
  model::DescriptorTable table;
  std::size_t file(model::OpenFile open_file) {
    table.open_files.push_back(std::move(open_file));
    return table.open_files.size() - 1;
  }
  Builder& at(model::RemoteFd fd, std::size_t open_file, bool close_on_exec = false) {
    table.descriptors.push_back({fd, close_on_exec, open_file});
    std::ranges::sort(table.descriptors, {}, &model::Descriptor::fd);
    return *this;
  }
  Builder& at(int fd, std::size_t open_file, bool close_on_exec = false) {
    return at(model::RemoteFd{fd}, open_file, close_on_exec);
  }
  [[nodiscard]] const model::Descriptor* find(model::RemoteFd fd) const {
    const auto found = std::ranges::find(table.descriptors, fd, &model::Descriptor::fd);
    return found == table.descriptors.end() ? nullptr : &*found;
  }
};

inline model::OpenFile same(model::OpenFile file, std::size_t as) {
  file.same_as = as;
  return file;
}

}  // namespace relive
