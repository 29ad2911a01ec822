// Building a program for the parasite: a list of operations, each with a name for errors and --dry-run.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "parasite/wire.h"

namespace relive::parasite {

class Program {
 public:
  // What a negative result of an operation means.
  enum class OnError : std::uint8_t { stop, go_on };

  // Appends a system call; returns its index. `what` names act and object: "dup3 900 -> 3".
  std::size_t syscall(std::string what, long number, std::initializer_list<std::uint64_t> arguments,
                      OnError on_error = OnError::stop);
  std::size_t add(std::string what, wire::Kind kind, std::initializer_list<std::uint64_t> arguments,
                  OnError on_error = OnError::stop);

  [[nodiscard]] std::size_t size() const { return operations_.size(); }
  [[nodiscard]] bool empty() const { return operations_.empty(); }
  [[nodiscard]] const std::string& what(std::size_t index) const { return names_[index]; }
  // After a run: what the kernel answered; -errno for an error.
  [[nodiscard]] std::int64_t result(std::size_t index) const { return operations_[index].result; }

  [[nodiscard]] std::vector<wire::Operation>& operations() { return operations_; }
  [[nodiscard]] const std::vector<wire::Operation>& operations() const { return operations_; }
  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }
  void clear();

 private:
  std::vector<wire::Operation> operations_;
  std::vector<std::string> names_;
};

}  // namespace relive::parasite
