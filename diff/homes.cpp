#include "diff/homes.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

#include "diff/sockets.h"

namespace relive::diff {

namespace {

// Sets of files that only ever grow together.
class Groups {
 public:
  explicit Groups(std::size_t files) : leader_(files) { std::iota(leader_.begin(), leader_.end(), std::size_t{0}); }
  [[nodiscard]] std::size_t leader(std::size_t file) {
    while (leader_[file] != file) file = leader_[file] = leader_[leader_[file]];
    return file;
  }
  void join(std::size_t one, std::size_t other) { leader_[leader(one)] = leader(other); }

 private:
  std::vector<std::size_t> leader_;
};

}  // namespace

std::vector<int> homes_of(const Table& table) {
  constexpr int kNone = std::numeric_limits<int>::max();
  Groups groups(table.files());
  std::map<std::uint64_t, std::size_t> terminals;  // by device
  for (std::size_t file = 0; file < table.files(); ++file) {
    if (const auto* const pipe = table.as<model::PipeEnd>(file); pipe != nullptr && !pipe->outside)
      for (const std::size_t end : table.ends_of(pipe->identity)) groups.join(file, end);
    if (table.as<model::Socket>(file) != nullptr)
      for (const std::size_t partner : partners(file, table)) groups.join(file, partner);
    if (const auto* const terminal = table.as<model::Terminal>(file); terminal != nullptr && terminal->device != 0)
      groups.join(file, terminals.emplace(terminal->device, file).first->second);
  }
  std::vector<int> home_of_group(table.files(), kNone);
  for (std::size_t file = 0; file < table.files(); ++file) {
    int& home = home_of_group[groups.leader(file)];
    if (!table.numbers(file).empty()) home = std::min(home, table.numbers(file).front().table);
  }
  std::vector<int> homes(table.files(), 0);
  for (std::size_t file = 0; file < table.files(); ++file)
    if (const int home = home_of_group[groups.leader(file)]; home != kNone) homes[file] = home;
  return homes;
}

}  // namespace relive::diff
