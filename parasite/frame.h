// Signal frames: where a thread is to go, as rt_sigreturn(2) takes it.
//
// Layout: struct ucontext, then (64-byte aligned) the XSAVE area with the software bytes that the kernel checks
// (arch/x86/include/uapi/asm/sigcontext.h; check_xstate_in_sigframe() in arch/x86/kernel/fpu/signal.c).
#pragma once

#include <sys/user.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "model/ids.h"
#include "model/thread.h"
#include "parasite/arena.h"

namespace relive::parasite {

struct FrameContents {
  user_regs_struct registers;         // orig_rax is ignored: sigreturn never restarts a system call
  std::span<const std::byte> xstate;  // NT_X86_XSTATE
  std::uint64_t signal_mask = 0;
};

// Puts a frame into the arena; returns the address of its ucontext in the task. The thread's alternate stack stays as
// it is: the frame names an invalid one, which rt_sigreturn ignores (restore_altstack() squashes all errors but
// EFAULT).
Result<model::TaskAddress> put_frame(Arena& arena, const FrameContents& contents);

// If the thread stopped inside a system call that the kernel would restart, makes it issue the call again with its own
// arguments (design, section 9: never EINTR). Also right for ERESTART_RESTARTBLOCK: a relative time-out starts anew.
user_regs_struct reissue_system_call(user_regs_struct registers);

}  // namespace relive::parasite
