// The files of an image directory: their names, and the numbers that they begin with.
//
// A file is the common magic, its own magic, and entries: a length (4 bytes, little endian), an encoded message
// (image/proto/), for some kinds bytes behind it. Files of pages are pages, and nothing else.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace relive::image {

inline constexpr std::uint32_t kCommonMagic = 0x54564319;
inline constexpr std::uint32_t kServiceMagic = 0x55105940;  // of files about the dump itself: stats-dump

enum class FileKind : std::uint8_t {
  inventory,
  pstree,
  core,  // number: tid
  ids,   // pid
  mm,
  fs,
  pagemap,
  shared_pagemap,  // number: the shared object
  pages,           // number: pages_id of a pagemap; raw
  fdinfo,          // number: ObjectIds.files
  files,
  remaps,
  ghost,  // number: id of the ghost, in hexadecimal
  pipes_data,
  fifo_data,
  socket_queues,
  tcp_stream,  // number: inode, in hexadecimal
  terminals,
  terminals_data,
  memory_files,
  locks,
  seccomp,
  cgroup,
  extra,  // number: pid; relive's own
};

struct FileFormat {
  FileKind kind;
  std::string_view stem;  // the name up to the number, or up to ".img"
  enum class Number : std::uint8_t { none, decimal, hexadecimal } number;
  std::uint32_t magic;  // 0: raw
};
[[nodiscard]] std::span<const FileFormat> formats();
[[nodiscard]] const FileFormat& format_of(FileKind kind);

// "core-17.img"
[[nodiscard]] std::string file_name(FileKind kind, std::uint64_t number = 0);

struct FileName {
  FileKind kind;
  std::uint64_t number = 0;
};
// What a name says; nothing of files that this release does not read.
[[nodiscard]] std::optional<FileName> parse_name(std::string_view name);

}  // namespace relive::image
