// A descriptor table with its indices: files by number and numbers by file. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "model/descriptor.h"

namespace relive::diff {

class Table {
 public:
  explicit Table(const model::DescriptorTable& table);  // REQUIRES: `table` outlives it
  [[nodiscard]] const model::Descriptor* at(model::RemoteFd fd) const;
  [[nodiscard]] const model::OpenFile& file(std::size_t index) const { return table_.open_files[index]; }
  // Of a file, ascending.
  [[nodiscard]] const std::vector<model::RemoteFd>& numbers(std::size_t index) const { return numbers_[index]; }
  [[nodiscard]] std::size_t files() const { return numbers_.size(); }
  [[nodiscard]] const model::DescriptorTable& table() const { return table_; }
  [[nodiscard]] const std::vector<model::Descriptor>& descriptors() const { return table_.descriptors; }
  template <class T>
  [[nodiscard]] const T* as(std::size_t index) const {
    return std::get_if<T>(&table_.open_files[index].object);
  }
  // None for 0.
  [[nodiscard]] std::optional<std::size_t> socket_with_inode(std::uint64_t inode) const;
  // The open files that are ends of one pipe, by index, ascending.
  [[nodiscard]] std::span<const std::size_t> ends_of(model::FileIdentity pipe) const;
  // For people: "descriptor 5 (socket ...)", by the file's lowest number.
  [[nodiscard]] std::string name(std::size_t index) const;

 private:
  const model::DescriptorTable& table_;
  std::vector<std::vector<model::RemoteFd>> numbers_;
  std::map<std::uint64_t, std::size_t> sockets_;
  std::map<model::FileIdentity, std::vector<std::size_t>> pipes_;
};

// Which living file is which wanted one, and the other way round: by index.
struct Matches {
  std::vector<std::optional<std::size_t>> living_of;
  std::vector<std::optional<std::size_t>> wanted_of;
};

}  // namespace relive::diff
