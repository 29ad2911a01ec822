// One system call in a stopped thread, by way of a `syscall` instruction that is already in the task. Uses system call
// stops, so no signal is involved.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "base/page_range.h"
#include "base/result.h"
#include "model/ids.h"
#include "task/frozen_task.h"

namespace relive::parasite {

// Sets the thread's registers from `base`, points it at the syscall instruction at `instruction`, lets it do one call,
// and returns the result (-errno for an error of the call). The thread is left behind the instruction, with these
// registers. `fault`, unless empty, is the name of a fault point that is passed while the thread is inside the call;
// the call is carried out all the same.
Result<std::int64_t> remote_syscall(task::FrozenTask& task, model::Tid tid, const user_regs_struct& base,
                                    model::TaskAddress instruction, long number,
                                    std::initializer_list<std::uint64_t> arguments, std::string_view fault = {});

// One line of a maps text. Advances `at`; false at the end.
struct MapsLine {
  AddressRange range;
  std::string_view permissions;
  std::string_view line;
};
bool next_line(std::string_view maps_text, std::size_t& at, MapsLine& out);

// A free range of `bytes` in the middle of the largest gap of the address space, clear of `avoid`.
Result<model::TaskAddress> find_gap(std::string_view maps_text, std::uint64_t bytes,
                                    std::span<const AddressRange> avoid);

}  // namespace relive::parasite
