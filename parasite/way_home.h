// The way home of a thread that has nothing of ours yet: what brings it back by itself if the keeper dies while the
// first system calls are made in it.
//
// The calls go through a `syscall; ret` that is in the task anyway (every C library has some). On a stack lies what
// `ret` finds: the address of a signal restorer (`mov $15, %eax; syscall`, in every C library too) and behind it a
// signal frame with the thread's own registers. So a thread that is let go in the midst of a call finishes it, returns
// into rt_sigreturn(2), and is where it was.
//
// Nothing is written where a program could keep something. A thread on the stack that the kernel made ([stack] in maps)
// has it below its red zone, where the kernel itself would deliver a signal. A thread that stands elsewhere (a
// coroutine, a language with stacks of its own, an alternate stack) has it at the far end of [stack]: in pages that
// nobody has touched yet, or in new ones below it.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "model/ids.h"
#include "task/frozen_task.h"

namespace relive::parasite {

struct WayHome {
  model::TaskAddress instruction;  // `syscall; ret`
  std::uint64_t stack_pointer = 0;
  model::TaskAddress word;  // a text for the calls, with a 0 behind it
};

// A blank task needs none: until it is let live it dies with us (task/frozen_task.h). Any system call instruction will
// do for it, that of the vDSO first of all.
//
// ErrorKind::refused where it cannot be laid, since a keeper that is killed would then take the task with it: the
// program has no such instructions, or no room on [stack].
Result<WayHome> lay_way_home(const task::FrozenTask& task, const task::FrozenThread& thread, std::string_view maps_text,
                             std::string_view word);

}  // namespace relive::parasite
