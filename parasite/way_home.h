// The way home of a thread that has nothing of ours yet: what brings it back by itself if the keeper dies while the
// first system calls are made in it.
//
// The calls go through a `syscall; ret` that is in the task anyway (every C library has some). Below the thread's own
// stack lies what `ret` finds: the address of a signal restorer (`mov $15, %eax; syscall`, in every C library too) and
// behind it a signal frame with the thread's own registers. So a thread that is let go in the midst of a call finishes
// it, returns into rt_sigreturn(2), and is where it was. Nothing is written but what the kernel itself would overwrite
// to deliver a signal: the stack below the red zone.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/result.h"
#include "model/ids.h"
#include "task/frozen_task.h"

namespace relive::parasite {

struct WayHome {
  model::TaskAddress instruction;  // `syscall; ret`
  std::uint64_t stack_pointer = 0;
};

// Nothing where it cannot be laid: the thread stands on a stack that the kernel has not made (nobody knows what lies
// below), or the program has no such instructions. The first calls are then made without it: a keeper that is killed in
// that fraction of a millisecond takes the task with it.
std::optional<WayHome> lay_way_home(const task::FrozenTask& task, const task::FrozenThread& thread,
                                    std::string_view maps_text);

}  // namespace relive::parasite
