// The descriptor numbers that an operation names (diff/descriptors.h). Pure.
#pragma once

#include <optional>
#include <type_traits>
#include <variant>

#include "diff/descriptors.h"

namespace relive::diff {

// Calls `look` with each, of one alternative; those of an operation that is not const may be replaced.
template <class Operation, class Look>
void for_each_number_of(Operation& operation, const Look& look) {
  if constexpr (requires { operation.fd; }) look(operation.fd);
  if constexpr (requires { operation.epoll; }) look(operation.epoll);
  if constexpr (requires { operation.reader; }) {
    look(operation.reader);
    look(operation.writer);
  }
  if constexpr (std::is_same_v<std::remove_const_t<Operation>, RefillPipe>) {
    look(operation.read_end);
    look(operation.write_end);
  }
  if constexpr (requires { operation.from.value(); }) {
    if (operation.from) look(*operation.from);
  } else if constexpr (requires { operation.from; }) {
    look(operation.from);
  }
  if constexpr (requires { operation.numbers; }) {
    for (auto& number : operation.numbers)
      if (number) look(*number);
  }
}

// The same, of any.
template <class Look>
void for_each_number(const DescriptorOperation& operation, const Look& look) {
  std::visit([&](const auto& one) { for_each_number_of(one, look); }, operation);
}

}  // namespace relive::diff
