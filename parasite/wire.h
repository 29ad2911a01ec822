// What relive and the parasite say to each other. Included by both sides: no library, no pointer of ours.
//
// All of it lies in the arena, memory shared between the keeper and the task (a memfd, mapped in both, MADV_DONTFORK in
// the task). Addresses in it are addresses in the task.
//
// The parasite runs programs. A program is an array of operations, carried out in order; it ends in a breakpoint, at
// which the keeper gets the thread back. Between two programs the thread stands behind that breakpoint; if the keeper
// dies, the kernel detaches and the thread runs on into leave(), which brings the task to where Control::phase says:
// back (undo program, original frames) or forward (commit program, wanted frames). So no death of the keeper can leave
// a task half rolled back (docs/failure-model.md).
#pragma once

#include <cstdint>

namespace relive::wire {

enum class Kind : std::uint32_t {
  syscall = 0,       // result = syscall(number, arg[0..5])
  copy_runs = 1,     // arg[0]: array of CopyRun, arg[1]: how many
  compare_runs = 2,  // arg[0]: array of CompareRun, arg[1]: count, arg[2]: bitmap out (bit set = page differs), result
                     // = differing pages
  save_bytes = 3,    // copy arg[2] bytes from arg[1] to arg[0] (both in the task)
  fill_zero = 4,     // zero arg[1] bytes at arg[0]
  take_signals = 5,  // consume pending signals: rt_sigtimedwait until EAGAIN, at most arg[0] (0: all); the thread's own
                     // come first, then the task's; result = how many
  create_thread = 6,  // arg[0]: address of a ThreadBlock, arg[1]: its clone_args (clone3(2)), arg[2]: Control; result =
                      // tid or -errno
  drain = 7,  // read fd arg[0] (non-blocking) into the scratch page arg[1] of arg[2] bytes until EAGAIN, or until more
              // than arg[3] reads have given nothing or an error (0: the first one is EOF)
};

enum Flags : std::uint32_t {
  kStopOnError = 1,    // a negative result ends the program; Program::failed tells which
  kSkipIfResult0 = 2,  // reserved
};

struct Operation {
  Kind kind;
  std::uint32_t flags;
  std::uint64_t number;
  std::uint64_t arg[6];
  std::int64_t result;
};

struct Program {
  std::uint64_t operations;  // address of an array of Operation
  std::uint32_t count;
  std::uint32_t done;   // operations carried out
  std::int32_t failed;  // index of the operation that ended the program, or -1
  std::uint32_t unused;
};

// Pages from the store (mapped read-only in the task) into place.
struct CopyRun {
  std::uint64_t to;
  std::uint64_t from;
  std::uint64_t bytes;
};

struct CompareRun {
  std::uint64_t living;
  std::uint64_t stored;  // 0: compare with zeros
  std::uint64_t pages;
};

enum class Phase : std::uint32_t {
  prepare = 0,  // a death of the keeper undoes
  commit = 1,   // a death of the keeper commits
  done = 2,     // the driver has carried out the commit program; the others may go
  broken = 3,   // the kernel refused an operation of the commit program: no thread ever runs on (fate "stopped")
  agreed = 4,   // one of several tasks: Agreement::decided says whether this is `prepare` or `commit`
};

// One page, shared by all tasks of a tree and their keeper: they commit together or not at all, and none runs on before
// all are done. If the keeper dies, each task reads here what has been decided.
struct Agreement {
  std::uint32_t decided;    // 1: all commit
  std::uint32_t broken;     // 1: one of them could not; the others stay, too
  std::uint32_t remaining;  // tasks that have not carried out their commit program; 0 where the keeper has seen to all
  std::uint32_t unused;
};

// Where a thread is to go. A frame is the address of a ucontext as rt_sigreturn(2) takes it: registers, FPU state,
// signal mask and alternate stack in one system call (arch/x86/kernel/signal_64.c).
struct ThreadBlock {
  std::uint64_t original_frame;  // 0: the thread did not exist before this rollback: it ends
  std::uint64_t wanted_frame;    // 0: the thread is surplus: it ends
  Program program;               // what it must do in its own context before it goes to its wanted frame, or ends
  std::uint64_t stack_top;       // 16-byte aligned; the parasite's stack for this thread
  std::int32_t tid;
  std::uint32_t driver;  // 1: runs undo and commit programs for the task
  std::uint32_t gone;    // set to 1 right before the thread leaves for a frame or ends
  std::uint32_t unused;
};

// A task's own SIGTRAP action is swapped for one that leads to leave(), so that the breakpoint at the end of a program
// kills nobody when the keeper has died. This value of its handler says that nothing is saved.
inline constexpr std::uint64_t kNoTrapSaved = ~std::uint64_t{0};

struct Control {
  Phase phase;
  std::uint32_t unused;
  Program undo;                 // carried out from its last operation to its first
  Program commit;               // carried out by the driver
  std::uint64_t surplus;        // addresses of the ThreadBlocks of surplus threads: the driver waits until all are gone
  std::uint64_t surplus_count;  // before it changes memory that they still use
  std::uint64_t
      saved_trap_action[4];  // the task's own SIGTRAP action (kernel layout) while relive's stands in its place
  std::uint64_t agreement;   // address of the tree's Agreement; 0: the task is alone
};

// Who put the parasite in, for another keeper that finds it. Lies in the arena's first page, behind Control.
struct Owner {
  std::uint64_t magic;  // kOwnerMagic
  std::int32_t pid;     // of the keeper, in its own pid namespace
  std::uint32_t user;
  std::uint64_t start_time;     // field 22 of /proc/PID/stat: tells it from a later process with that id
  std::uint64_t pid_namespace;  // inode of /proc/PID/ns/pid
};
inline constexpr std::uint64_t kOwnerMagic = 0x72656c6976650001;
inline constexpr std::uint64_t kOwnerOffset = 2048;
static_assert(sizeof(Control) <= kOwnerOffset);

// The code begins with this table; offsets in bytes from the start of the parasite's code.
inline constexpr std::uint64_t kRunEntry = 0;  // rbx: Control, rbp: ThreadBlock, rdi: Program; ends in the breakpoint
inline constexpr std::uint64_t kLeaveEntry = 16;     // rbx: Control, rbp: ThreadBlock
inline constexpr std::uint64_t kTrapEntry = 32;      // signal handler
inline constexpr std::uint64_t kRestorerEntry = 48;  // sa_restorer of the handler; never reached
inline constexpr std::uint64_t kSyscallEntry = 64;   // a system call instruction, then leave

inline constexpr std::uint64_t kCodeBytes = 64 << 10;   // room for the code; the arena follows it
inline constexpr std::uint64_t kAgreementBytes = 4096;  // behind the arena: room for the tree's Agreement

}  // namespace relive::wire
