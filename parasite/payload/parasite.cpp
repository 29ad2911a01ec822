// The parasite: relive's code inside a task. Freestanding, position independent, no library, no writable data, no use
// of floating point registers. It knows nothing but wire.h.
#include "parasite/wire.h"

using relive::wire::Agreement;
using relive::wire::CompareRun;
using relive::wire::Control;
using relive::wire::CopyRun;
using relive::wire::Kind;
using relive::wire::Operation;
using relive::wire::Phase;
using relive::wire::Program;
using relive::wire::ThreadBlock;

extern "C" long payload_create_thread(void* clone_args, unsigned long size, Control* control, ThreadBlock* block);
extern "C" [[noreturn]] void payload_sigreturn(void* frame);
extern "C" void payload_run(Program* program);
extern "C" [[noreturn]] void payload_leave(Control* control, ThreadBlock* block);

namespace {

constexpr long kRtSigaction = 13;
constexpr long kRtSigtimedwait = 128;
constexpr long kRead = 0;
constexpr long kSchedYield = 24;
constexpr long kGetPid = 39;
constexpr long kExit = 60;
constexpr long kKill = 62;
constexpr long kFutex = 202;
constexpr long kSetTidAddress = 218;
constexpr long kSetRobustList = 273;
constexpr long kAgain = -11;
constexpr long kInterrupted = -4;
constexpr unsigned long kCloneArgsSize = 88;  // CLONE_ARGS_SIZE_VER2 (Linux 5.7); set_tid is in VER1 (5.5)
constexpr int kTrap = 5;
constexpr unsigned long kStop = 19;
constexpr unsigned long kPage = 4096;

inline long call(long number, unsigned long a, unsigned long b, unsigned long c, unsigned long d, unsigned long e,
                 unsigned long f) {
  long result;
  register unsigned long r10 asm("r10") = d;
  register unsigned long r8 asm("r8") = e;
  register unsigned long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

inline void copy_bytes(unsigned long to, unsigned long from, unsigned long bytes) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

inline void zero_bytes(unsigned long to, unsigned long bytes) {
  asm volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(0) : "memory");
}

bool page_differs(unsigned long living, unsigned long stored) {
  const auto* a = reinterpret_cast<const volatile unsigned long*>(living);
  const auto* b = reinterpret_cast<const volatile unsigned long*>(stored);
  for (unsigned i = 0; i < kPage / sizeof(unsigned long); i += 4) {
    const unsigned long difference =
        stored == 0 ? (a[i] | a[i + 1] | a[i + 2] | a[i + 3])
                    : ((a[i] ^ b[i]) | (a[i + 1] ^ b[i + 1]) | (a[i + 2] ^ b[i + 2]) | (a[i + 3] ^ b[i + 3]));
    if (difference != 0) return true;
  }
  return false;
}

long compare_runs(const CompareRun* runs, unsigned long count, unsigned char* bitmap) {
  long differing = 0;
  unsigned long bit = 0;
  for (unsigned long r = 0; r < count; ++r) {
    for (unsigned long page = 0; page < runs[r].pages; ++page, ++bit) {
      const unsigned long stored = runs[r].stored == 0 ? 0 : runs[r].stored + page * kPage;
      if (!page_differs(runs[r].living + page * kPage, stored)) continue;
      bitmap[bit / 8] = static_cast<unsigned char>(bitmap[bit / 8] | (1U << (bit % 8)));
      ++differing;
    }
  }
  return differing;
}

long take_signals(unsigned long at_most) {
  const unsigned long all = ~0UL;
  const unsigned long no_time[2] = {0, 0};
  long taken = 0;
  for (;;) {
    if (at_most != 0 && static_cast<unsigned long>(taken) == at_most) return taken;
    const long result = call(kRtSigtimedwait, reinterpret_cast<unsigned long>(&all), 0,
                             reinterpret_cast<unsigned long>(&no_time), 8, 0, 0);
    if (result == kAgain) return taken;
    if (result < 0 && result != kInterrupted) return result;
    if (result > 0) ++taken;
  }
}

long drain(unsigned long fd, unsigned long scratch, unsigned long bytes, unsigned long patience) {
  for (;;) {
    const long result = call(kRead, fd, scratch, bytes, 0, 0, 0);
    if (result == kAgain) return 0;
    if (result <= 0 && result != kInterrupted && patience-- == 0) return result;
  }
}

Control* control_of(Operation& operation) { return reinterpret_cast<Control*>(operation.arg[2]); }

void carry_out(Operation& operation) {
  const auto& arg = operation.arg;
  switch (operation.kind) {
    case Kind::syscall:
      operation.result = call(static_cast<long>(operation.number), arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
      return;
    case Kind::copy_runs: {
      const auto* runs = reinterpret_cast<const CopyRun*>(arg[0]);
      for (unsigned long i = 0; i < arg[1]; ++i) copy_bytes(runs[i].to, runs[i].from, runs[i].bytes);
      operation.result = 0;
      return;
    }
    case Kind::compare_runs:
      operation.result =
          compare_runs(reinterpret_cast<const CompareRun*>(arg[0]), arg[1], reinterpret_cast<unsigned char*>(arg[2]));
      return;
    case Kind::save_bytes:
      copy_bytes(arg[0], arg[1], arg[2]);
      operation.result = 0;
      return;
    case Kind::fill_zero:
      zero_bytes(arg[0], arg[1]);
      operation.result = 0;
      return;
    case Kind::take_signals:
      operation.result = take_signals(arg[0]);
      return;
    case Kind::create_thread:
      operation.result = payload_create_thread(reinterpret_cast<void*>(arg[1]), kCloneArgsSize, control_of(operation),
                                               reinterpret_cast<ThreadBlock*>(arg[0]));
      return;
    case Kind::drain:
      operation.result = drain(arg[0], arg[1], arg[2], arg[3]);
      return;
  }
  operation.result = -38;  // ENOSYS
}

void undo(Program& program) {
  auto* operations = reinterpret_cast<Operation*>(program.operations);
  while (program.count > 0) {
    carry_out(operations[program.count - 1]);
    program.count = program.count - 1;
  }
}

void give_trap_action_back(Control* control) {
  if (control->saved_trap_action[0] == relive::wire::kNoTrapSaved) return;
  call(kRtSigaction, kTrap, reinterpret_cast<unsigned long>(control->saved_trap_action), 0, 8, 0, 0);
  control->saved_trap_action[0] = relive::wire::kNoTrapSaved;
}

[[noreturn]] void end_thread(ThreadBlock* block) {
  call(kSetTidAddress, 0, 0, 0, 0, 0, 0);  // nobody's memory is written when this thread ends
  call(kSetRobustList, 0, 24, 0, 0, 0, 0);
  block->gone = 1;
  for (;;) call(kExit, 0, 0, 0, 0, 0, 0);
}

[[noreturn]] void go(ThreadBlock* block, unsigned long frame) {
  if (frame == 0) end_thread(block);
  block->gone = 1;
  payload_sigreturn(reinterpret_cast<void*>(frame));
}

Phase phase_of(Control* control) {
  return static_cast<Phase>(__atomic_load_n(reinterpret_cast<unsigned*>(&control->phase), __ATOMIC_ACQUIRE));
}

Agreement* agreement_of(Control* control) { return reinterpret_cast<Agreement*>(control->agreement); }

// The keeper has died between making a task ready and deciding for all of them, or right behind that: what it decided
// stands in the agreement, and no more changes.
void settle(Control* control) {
  auto* phase = reinterpret_cast<unsigned*>(&control->phase);
  auto agreed = static_cast<unsigned>(Phase::agreed);
  if (__atomic_load_n(phase, __ATOMIC_ACQUIRE) != agreed) return;
  const bool decided = __atomic_load_n(&agreement_of(control)->decided, __ATOMIC_ACQUIRE) != 0;
  __atomic_compare_exchange_n(phase, &agreed, static_cast<unsigned>(decided ? Phase::commit : Phase::prepare), false,
                              __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

// The kernel has broken the commit off: the task is stopped, and this thread never runs on.
[[noreturn]] void stay(Control* control) {
  if (Agreement* agreement = agreement_of(control); agreement != nullptr) {
    __atomic_store_n(&agreement->broken, 1, __ATOMIC_RELEASE);
    call(kFutex, reinterpret_cast<unsigned long>(&agreement->remaining), 1 /* FUTEX_WAKE */, 0x7fffffff, 0, 0, 0);
  }
  __atomic_store_n(reinterpret_cast<unsigned*>(&control->phase), static_cast<unsigned>(Phase::broken),
                   __ATOMIC_RELEASE);
  for (;;) call(kKill, static_cast<unsigned long>(call(kGetPid, 0, 0, 0, 0, 0, 0)), kStop, 0, 0, 0, 0);
}

// This task's commit program is done; nobody runs on before all the others' are. false: one could not.
bool wait_for_the_others(Control* control) {
  Agreement* agreement = agreement_of(control);
  if (agreement == nullptr) return true;
  unsigned* remaining = &agreement->remaining;
  unsigned seen = __atomic_load_n(remaining, __ATOMIC_ACQUIRE);
  while (seen != 0 &&
         !__atomic_compare_exchange_n(remaining, &seen, seen - 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
  }
  call(kFutex, reinterpret_cast<unsigned long>(remaining), 1 /* FUTEX_WAKE */, 0x7fffffff, 0, 0, 0);
  for (;;) {
    if (__atomic_load_n(&agreement->broken, __ATOMIC_ACQUIRE) != 0) return false;
    seen = __atomic_load_n(remaining, __ATOMIC_ACQUIRE);
    if (seen == 0) return true;
    call(kFutex, reinterpret_cast<unsigned long>(remaining), 0 /* FUTEX_WAIT */, seen, 0, 0, 0);
  }
}

void wait_for_surplus(Control* control) {
  const auto* blocks = reinterpret_cast<ThreadBlock* const*>(control->surplus);
  for (unsigned long i = 0; i < control->surplus_count; ++i)
    while (__atomic_load_n(&blocks[i]->gone, __ATOMIC_ACQUIRE) == 0) call(kSchedYield, 0, 0, 0, 0, 0, 0);
}

}  // namespace

// Runs a program from where it stands (`done`) to its end.
extern "C" void payload_run(Program* program) {
  auto* operations = reinterpret_cast<Operation*>(program->operations);
  while (program->done < program->count && program->failed < 0) {
    Operation& operation = operations[program->done];
    carry_out(operation);
    if (operation.result < 0 && (operation.flags & relive::wire::kStopOnError) != 0)
      program->failed = static_cast<int>(program->done);
    program->done = program->done + 1;
  }
}

// Brings this thread to where the phase says. Reached by a thread that the keeper let go, or that it left behind by
// dying.
extern "C" void payload_leave(Control* control, ThreadBlock* block) {
  settle(control);
  if (phase_of(control) == Phase::prepare) {
    if (block->driver != 0) {
      undo(control->undo);
      give_trap_action_back(control);
    }
    go(block, block->original_frame);
  }
  // A surplus thread must be out of memory that the commit program takes away (the kernel writes its rseq area).
  if (block->driver == 0 && block->wanted_frame == 0 && phase_of(control) != Phase::broken) {
    if (block->program.operations != 0) payload_run(&block->program);
    end_thread(block);
  }
  if (block->driver != 0) {
    if (phase_of(control) == Phase::commit) {
      wait_for_surplus(control);
      payload_run(&control->commit);
      if (control->commit.failed < 0 && !wait_for_the_others(control)) stay(control);
    }
    give_trap_action_back(control);
    if (control->commit.failed >= 0 || phase_of(control) == Phase::broken) stay(control);
    __atomic_store_n(reinterpret_cast<unsigned*>(&control->phase), static_cast<unsigned>(Phase::done),
                     __ATOMIC_RELEASE);
    call(kFutex, reinterpret_cast<unsigned long>(&control->phase), 1 /* FUTEX_WAKE */, 0x7fffffff, 0, 0, 0);
  }
  for (Phase phase = phase_of(control); phase != Phase::done; phase = phase_of(control))
    call(kFutex, reinterpret_cast<unsigned long>(&control->phase), 0 /* FUTEX_WAIT */,
         static_cast<unsigned long>(phase), 0, 0, 0);
  if (block->wanted_frame == 0) end_thread(block);
  if (block->program.operations != 0) payload_run(&block->program);
  if (block->program.failed >= 0) stay(control);
  go(block, block->wanted_frame);
}
