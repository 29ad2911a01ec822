#include "parasite/program.h"

#include <algorithm>

namespace relive::parasite {

namespace {
wire::Operation make(wire::Kind kind, std::uint64_t number, std::initializer_list<std::uint64_t> arguments,
                     Program::OnError on_error) {
  wire::Operation operation{};
  operation.kind = kind;
  operation.flags = on_error == Program::OnError::stop ? wire::kStopOnError : 0U;
  operation.number = number;
  std::copy_n(arguments.begin(), std::min<std::size_t>(arguments.size(), 6), operation.arg);
  return operation;
}
}  // namespace

std::size_t Program::syscall(std::string what, long number, std::initializer_list<std::uint64_t> arguments,
                             OnError on_error) {
  operations_.push_back(make(wire::Kind::syscall, static_cast<std::uint64_t>(number), arguments, on_error));
  names_.push_back(std::move(what));
  return operations_.size() - 1;
}

std::size_t Program::add(std::string what, wire::Kind kind, std::initializer_list<std::uint64_t> arguments,
                         OnError on_error) {
  operations_.push_back(make(kind, 0, arguments, on_error));
  names_.push_back(std::move(what));
  return operations_.size() - 1;
}

void Program::clear() {
  operations_.clear();
  names_.clear();
}

}  // namespace relive::parasite
