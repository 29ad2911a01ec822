#include "image/magic.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/number.h"

namespace relive::image {

namespace {

using Number = FileFormat::Number;

// In the order of FileKind.
constexpr std::array kFormats{
    FileFormat{FileKind::inventory, "inventory", Number::none, 0x58313116},
    FileFormat{FileKind::pstree, "pstree", Number::none, 0x50273030},
    FileFormat{FileKind::core, "core-", Number::decimal, 0x55053847},
    FileFormat{FileKind::ids, "ids-", Number::decimal, 0x54432030},
    FileFormat{FileKind::mm, "mm-", Number::decimal, 0x57492820},
    FileFormat{FileKind::fs, "fs-", Number::decimal, 0x51403912},
    FileFormat{FileKind::pagemap, "pagemap-", Number::decimal, 0x56084025},
    FileFormat{FileKind::shared_pagemap, "pagemap-shmem-", Number::decimal, 0x56084025},
    FileFormat{FileKind::pages, "pages-", Number::decimal, 0},
    FileFormat{FileKind::fdinfo, "fdinfo-", Number::decimal, 0x56213732},
    FileFormat{FileKind::files, "files", Number::none, 0x56303138},
    FileFormat{FileKind::remaps, "remap-fpath", Number::none, 0x59133954},
    FileFormat{FileKind::ghost, "ghost-file-", Number::hexadecimal, 0x52583605},
    FileFormat{FileKind::pipes_data, "pipes-data", Number::none, 0x56453709},
    FileFormat{FileKind::fifo_data, "fifo-data", Number::none, 0x59333054},
    FileFormat{FileKind::socket_queues, "sk-queues", Number::none, 0x56264026},
    FileFormat{FileKind::tcp_stream, "tcp-stream-", Number::hexadecimal, 0x51465506},
    FileFormat{FileKind::terminals, "tty-info", Number::none, 0x59453036},
    FileFormat{FileKind::terminals_data, "tty-data", Number::none, 0x59413026},
    FileFormat{FileKind::memory_files, "memfd", Number::none, 0x48453499},
    FileFormat{FileKind::locks, "filelocks", Number::none, 0x54323616},
    FileFormat{FileKind::seccomp, "seccomp", Number::none, 0x64413049},
    FileFormat{FileKind::cgroup, "cgroup", Number::none, 0x59383330},
    FileFormat{FileKind::extra, "relive-task-", Number::decimal, 0x52454C56},
};
static_assert([] {
  for (std::size_t i = 0; i < kFormats.size(); ++i)
    if (static_cast<std::size_t>(kFormats[i].kind) != i) return false;
  return true;
}());

constexpr std::string_view kEnding = ".img";

std::optional<std::uint64_t> parse_number(std::string_view text, Number number) {
  if (text.size() > 1 && text.front() == '0') return std::nullopt;  // one name a number
  return relive::parse_number<std::uint64_t>(text, number == Number::hexadecimal ? 16 : 10);
}

}  // namespace

std::span<const FileFormat> formats() { return kFormats; }

const FileFormat& format_of(FileKind kind) { return kFormats[static_cast<std::size_t>(kind)]; }

std::string file_name(FileKind kind, std::uint64_t number) {
  const FileFormat& format = format_of(kind);
  switch (format.number) {
    case Number::none:
      return fmt::format("{}{}", format.stem, kEnding);
    case Number::decimal:
      return fmt::format("{}{}{}", format.stem, number, kEnding);
    case Number::hexadecimal:
      return fmt::format("{}{:x}{}", format.stem, number, kEnding);
  }
  return {};
}

std::optional<FileName> parse_name(std::string_view name) {
  if (!name.ends_with(kEnding)) return std::nullopt;
  name.remove_suffix(kEnding.size());
  for (const FileFormat& format : kFormats) {
    if (!name.starts_with(format.stem)) continue;
    const std::string_view rest = name.substr(format.stem.size());
    if (format.number == Number::none) {
      if (rest.empty()) return FileName{format.kind};
      continue;
    }
    if (const auto number = parse_number(rest, format.number)) return FileName{format.kind, *number};
  }
  return std::nullopt;
}

}  // namespace relive::image
