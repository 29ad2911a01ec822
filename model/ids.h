// Names of things that belong to a target. They never convert to pointers or descriptors of ours.
#pragma once

#include <sys/types.h>

#include <compare>
#include <cstdint>
#include <functional>

namespace relive::model {

// A thread's id in relive's own pid namespace. Tid == Pid for the thread group leader.
struct Tid {
  pid_t value = 0;
  constexpr auto operator<=>(const Tid&) const = default;
};

// A task's (thread group's) id in relive's own pid namespace.
struct Pid {
  pid_t value = 0;
  constexpr auto operator<=>(const Pid&) const = default;
};

// An address in a target's memory.
struct TaskAddress {
  std::uint64_t value = 0;
  constexpr auto operator<=>(const TaskAddress&) const = default;
  [[nodiscard]] constexpr TaskAddress operator+(std::uint64_t bytes) const { return {value + bytes}; }
};

// A descriptor number in one of a target's tables; ordered by table, then by number.
struct RemoteFd {
  int value = -1;
  int table = 0;  // its index among the tables of the tree (model/tree.h)
  constexpr bool operator==(const RemoteFd&) const = default;
  constexpr std::strong_ordering operator<=>(const RemoteFd& other) const {
    const auto order = table <=> other.table;
    return order != 0 ? order : value <=> other.value;
  }
};

}  // namespace relive::model

template <>
struct std::hash<relive::model::Tid> {
  std::size_t operator()(const relive::model::Tid& tid) const noexcept { return std::hash<pid_t>{}(tid.value); }
};
