// Making open files beside the task's living table, at spare numbers, and the commit operations that concern one
// number.
//
// Everything made here is in the undo log before it is made. Part of apply/descriptors.h and of the kinds' executors
// (apply/self_contained.h).
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "apply/workshop.h"
#include "base/result.h"
#include "model/ids.h"

namespace relive::apply {

class FileMaker {
 public:
  // `table`: the one that the workshop's task has, as RemoteFd::table.
  explicit FileMaker(Workshop& workshop, int table = 0) : workshop_(workshop), table_(table) {}

  [[nodiscard]] parasite::Visit& visit() { return workshop_.visit; }
  [[nodiscard]] Workshop& workshop() { return workshop_; }
  [[nodiscard]] int table() const { return table_; }

  // --- prepare. A fault point each; errors leave the undo log such that the number is free again.

  // Makes the open file `file` of the wanted table by one system call in the task: its number is then spare(file).
  Result<void> make_one(std::size_t file, const std::string& what, long call,
                        const std::array<std::uint64_t, 3>& arguments);
  // Two files by one call, which stores their numbers at the address given to `arguments_with`.
  using ArgumentsWith = std::function<std::array<std::uint64_t, 4>(std::uint64_t)>;
  Result<std::pair<model::RemoteFd, model::RemoteFd>> make_two(const std::string& what, long call,
                                                               const ArgumentsWith& arguments_with);
  // The open file behind our descriptor becomes `file`.
  Result<void> give(std::size_t file, int ours);
  // A second number for a living file.
  Result<void> duplicate(std::size_t file, model::RemoteFd from);
  // Of a number made by make_two: it is `file`, or it is not wanted.
  void keep(std::size_t file, model::RemoteFd spare) { spares_[file] = spare; }
  Result<void> close(model::RemoteFd spare);
  [[nodiscard]] model::RemoteFd spare(std::size_t file) const { return spares_.at(file); }
  // Which wanted file stands at this spare number? None: it is no spare number.
  [[nodiscard]] std::optional<std::size_t> file_at(model::RemoteFd spare) const;
  [[nodiscard]] bool has_spare(std::size_t file) const { return spares_.contains(file); }
  void forget(std::size_t file) { spares_.erase(file); }  // its spare number is closed by an operation of its own
  // A number for something that is no file of the wanted table, to be given to make_one().
  [[nodiscard]] std::size_t helper() { return helpers_++; }
  // Our duplicate of a file made here.
  Result<UniqueFd> borrow(std::size_t file) { return visit().task().borrow(spare(file)); }

  // --- commit operations
  void commit(std::string what, long call, std::initializer_list<std::uint64_t> arguments);
  void set_flags(model::RemoteFd fd, std::uint32_t flags);
  // Empties a pipe, an eventfd, a socket and the like by reading, whatever its flags are; leaves it with `flags`.
  enum class Drain : std::uint8_t { bytes, messages };  // an empty message is not the end of all
  Result<void> drain(model::RemoteFd fd, std::uint32_t flags, Drain what = Drain::bytes);

  // The spare numbers are closed when everything else is done.
  void close_spares();

  static std::uint64_t number(model::RemoteFd fd) { return static_cast<std::uint64_t>(fd.value); }
  static void close_in(parasite::Program& program, model::RemoteFd fd);

 private:
  Result<model::RemoteFd> take_spare(const std::vector<model::RemoteFd>& not_these);
  Result<void> record_close(model::RemoteFd spare);
  Workshop& workshop_;
  int table_;
  std::map<std::size_t, model::RemoteFd> spares_;  // by wanted file
  static constexpr std::size_t kFirstHelper = std::size_t{1} << 40;
  std::size_t helpers_ = kFirstHelper;
  std::optional<model::TaskAddress> scratch_;
};

}  // namespace relive::apply
