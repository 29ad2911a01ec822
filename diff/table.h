// A descriptor table with its indices: files by number and numbers by file. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "model/descriptor.h"

namespace relive::diff {

class Table {
 public:
  // REQUIRES: both outlive it. `tasks`: whose each table is, where there are several.
  explicit Table(const model::DescriptorTable& table, std::span<const model::Pid> tasks = {});
  [[nodiscard]] const model::Descriptor* at(model::RemoteFd fd) const;
  [[nodiscard]] const model::OpenFile& file(std::size_t index) const { return table_.open_files[index]; }
  // Of a file, in all tables, ascending.
  [[nodiscard]] const std::vector<model::RemoteFd>& numbers(std::size_t index) const { return numbers_[index]; }
  // Of a file, in one table: the lowest.
  [[nodiscard]] std::optional<model::RemoteFd> number_in(std::size_t index, int table) const;
  // The same; where the table does not have the file, what stands for its spare number there (diff/descriptors.h).
  [[nodiscard]] model::RemoteFd number_at(std::size_t index, int table) const;
  // The table in which everything about a file is done. REQUIRES: it has a number.
  [[nodiscard]] int home(std::size_t index) const {
    return homes_.empty() ? numbers_[index].front().table : homes_[index];
  }
  [[nodiscard]] model::RemoteFd at_home(std::size_t index) const { return number_at(index, home(index)); }
  void set_homes(std::vector<int> homes) { homes_ = std::move(homes); }
  // "task", or "tree" where there are several tables.
  [[nodiscard]] const char* scope() const { return tasks_.size() < 2 ? "task" : "tree"; }
  [[nodiscard]] std::span<const model::Pid> tasks() const { return tasks_; }
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
  // For people: "descriptor 5 (socket ...)", by the file's lowest number; "descriptor 5 of task 4242 (socket ...)".
  [[nodiscard]] std::string name(std::size_t index) const;

 private:
  const model::DescriptorTable& table_;
  std::span<const model::Pid> tasks_;
  std::vector<int> homes_;
  std::vector<std::vector<model::RemoteFd>> numbers_;
  std::map<std::uint64_t, std::size_t> sockets_;
  std::map<model::FileIdentity, std::vector<std::size_t>> pipes_;
};

// Which wanted files have a spare number in which tables.
using Spares = std::set<std::pair<std::size_t, int>>;

// Which living file is which wanted one, and the other way round: by index.
struct Matches {
  std::vector<std::optional<std::size_t>> living_of;
  std::vector<std::optional<std::size_t>> wanted_of;
};

}  // namespace relive::diff
