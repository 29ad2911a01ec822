#include "model/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>

namespace relive::model {
namespace {

// A file stays the same file when its name goes.
MappingSource kind_of_object(MappingSource source) {
  return source == MappingSource::deleted_file ? MappingSource::file : source;
}

bool continues(const Mapping& a, const Mapping& b) {
  if (a.range.end != b.range.begin || a.protection() != b.protection() || a.shared != b.shared ||
      a.source != b.source || a.device != b.device || a.inode != b.inode || a.protection_key != b.protection_key ||
      a.marks != b.marks || given_name(a) != given_name(b)) {
    return false;
  }
  if (a.source == MappingSource::kernel) return false;
  return !a.has_object() || (a.offset + a.range.size() == b.offset && a.name == b.name);
}

std::string_view source_text(const Mapping& mapping) {
  if (!mapping.name.empty())
    return mapping.source == MappingSource::shared_anonymous ? "shared anonymous" : std::string_view(mapping.name);
  return mapping.shared ? "shared anonymous" : "anonymous";
}

}  // namespace

int Mapping::protection() const {
  return (readable ? PROT_READ : 0) | (writable ? PROT_WRITE : 0) | (executable ? PROT_EXEC : 0);
}

bool Mapping::has_object() const { return source != MappingSource::anonymous && source != MappingSource::kernel; }

Mapping Mapping::cut(AddressRange part) const {
  Mapping piece = *this;
  if (has_object()) piece.offset += part.begin - range.begin;
  piece.range = part;
  return piece;
}

std::string permissions_text(const Mapping& mapping) {
  return {mapping.readable ? 'r' : '-', mapping.writable ? 'w' : '-', mapping.executable ? 'x' : '-',
          mapping.shared ? 's' : 'p'};
}

std::string size_text(std::uint64_t bytes) {
  if (bytes >= (1U << 30) && bytes % (1U << 30) == 0) return fmt::format("{} GiB", bytes >> 30);
  if (bytes >= (1U << 20) && bytes % (1U << 20) == 0) return fmt::format("{} MiB", bytes >> 20);
  return fmt::format("{} KiB", bytes >> 10);
}

std::string mapping_text(const Mapping& mapping) {
  return fmt::format("{:x}-{:x} {} {} {}", mapping.range.begin, mapping.range.end, permissions_text(mapping),
                     source_text(mapping), size_text(mapping.range.size()));
}

std::string_view given_name(const Mapping& mapping) {
  const std::string_view name = mapping.name;
  for (const std::string_view prefix : {std::string_view("[anon:"), std::string_view("[anon_shmem:")}) {
    if (name.starts_with(prefix) && name.ends_with(']'))
      return name.substr(prefix.size(), name.size() - prefix.size() - 1);
  }
  return {};
}

bool same_object(const Mapping& a, const Mapping& b, std::uint64_t address) {
  if (a.shared != b.shared || kind_of_object(a.source) != kind_of_object(b.source)) return false;
  if (a.source == MappingSource::kernel) return a.name == b.name && a.range.begin == b.range.begin;
  if (!a.has_object()) return true;
  return a.device == b.device && a.inode == b.inode &&
         a.offset + (address - a.range.begin) == b.offset + (address - b.range.begin);
}

std::vector<Mapping> merged(std::vector<Mapping> mappings) {
  std::vector<Mapping> result;
  result.reserve(mappings.size());
  for (auto& mapping : mappings) {
    if (!result.empty() && continues(result.back(), mapping)) {
      result.back().range.end = mapping.range.end;
      if (result.back().name.empty()) result.back().name = std::move(mapping.name);
    } else {
      result.push_back(std::move(mapping));
    }
  }
  return result;
}

bool needs_writable_file(const Mapping& mapping) {
  return mapping.shared && (mapping.writable || mapping.marks.may_write);
}

std::uint64_t hold_key(const Memory& memory, const Mapping& mapping) {
  const auto first = std::ranges::find_if(memory.mappings, [&](const Mapping& other) {
    return other.has_object() && other.device == mapping.device && other.inode == mapping.inode &&
           needs_writable_file(other) == needs_writable_file(mapping);
  });
  return first == memory.mappings.end() ? mapping.range.begin : first->range.begin;
}

}  // namespace relive::model
