// A victim: a small program with one kind of state, which it judges itself, from inside.
//
// Protocol, lines on stdin and stdout:
//   ready          said once the state stands (or "SKIP: needs NAME: why", NAME of tests/needs)
//   verify [N]     -> "PASS", or "FAIL: what; what ...". Checks everything against constants compiled in, and against
//   what
//                  was noted at ready (which rolls back with the memory). With N: the state must be number N.
//   become N       -> "became N": the state moves on to number N, as verifiable as number 0
//   wreck [R]      -> "wrecked": destroys the state thoroughly; R varies the way. "FAIL: ..." if even that went wrong
//   end            exits with status 0; so does end-of-file
//
// Between two lines the main thread stands in read(2) on descriptor 0, with nothing buffered. Verifying is repeatable:
// it leaves the state as it found it. Files are made in the current directory.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096UL

struct victim {
  void (*make)(void);
  void (*verify)(void);
  void (*wreck)(unsigned round);
  void (*become)(unsigned state);  // optional: victim_state is set by the frame, together with pages of its own
  bool interrupted;                // signals of its own may interrupt its read(2); else EINTR is a failure
};

// The number of the state the victim is in; part of its memory.
extern unsigned victim_state;

int victim_main(const struct victim* v);
// The loop alone: for a victim that calls it from somewhere special. `say_first` is written before the first line is
// read. Begins with victim_prepare().
void victim_prepare(void);
int victim_loop(const struct victim* v, const char* say_first);

// Failures are collected, not fatal: a line names all of them.
void victim_fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// The state cannot be made on this machine; `reason` is "needs NAME: ..." with a NAME of tests/needs.
_Noreturn void victim_skip(const char* reason);
// Making the state failed: says so and exits.
_Noreturn void victim_die(const char* what);

#define CHECK(condition, ...)                   \
  do {                                          \
    if (!(condition)) victim_fail(__VA_ARGS__); \
  } while (0)
#define CHECK_EQUAL(what, got, want)                                                                               \
  do {                                                                                                             \
    const long long got_ = (long long)(got), want_ = (long long)(want);                                            \
    if (got_ != want_) victim_fail("%s is %lld (0x%llx), want %lld", what, got_, (unsigned long long)got_, want_); \
  } while (0)
// For make(): stops the victim when a call fails.
#define MUST(call)                             \
  ({                                           \
    __auto_type must_ = (call);                \
    if ((long)must_ == -1L) victim_die(#call); \
    must_;                                     \
  })

// Patterns: pseudo-random bytes from a seed, 8 at a time.
void fill(void* to, size_t bytes, uint64_t seed);
bool filled(const void* from, size_t bytes, uint64_t seed);
uint64_t pattern_word(uint64_t seed, uint64_t index);

// Facts from procfs.
size_t read_text(const char* path, char* to, size_t room);              // 0 when it cannot be read
bool status_field(pid_t tid, const char* name, char* to, size_t room);  // of /proc/self/task/TID/status; "SigBlk"
uint64_t status_hex(pid_t tid, const char* name);
// Is all of [at, at+bytes) mapped with permissions like "rw-p"?
bool mapped_as(const void* at, size_t bytes, const char* permissions);
bool unmapped(const void* at, size_t bytes);
// Does every mapping in the range have (or lack) the two-letter VmFlag?
bool flagged(const void* at, size_t bytes, const char* flag);
bool not_flagged(const void* at, size_t bytes, const char* flag);
// The open descriptors are exactly these (count of them), in any order.
void check_descriptors(const int* fds, size_t count);
int count_threads(void);
bool thread_exists(pid_t tid);
// Waits until the thread blocks in a system call and returns its number (restart_syscall is 219). -1 after ten seconds.
long blocked_in(pid_t tid);
pid_t my_tid(void);
double now(void);  // CLOCK_MONOTONIC, seconds

void futex_wait(atomic_int* word, int value);
void futex_wake(atomic_int* word);

// A thread that waits on a futex and runs what it is given. It keeps a pattern on its stack and checks it each time.
struct worker {
  pthread_t thread;
  pid_t tid;
  uint64_t seed;
  atomic_int request;  // 0: none, 1: run, 2: end
  atomic_int answered;
  void (*run)(struct worker*, void*);
  void* argument;
  atomic_int stack_damaged;
};
void worker_start(struct worker* w, uint64_t seed);
void worker_call(struct worker* w, void (*run)(struct worker*, void*), void* argument);
void worker_end(struct worker* w);  // and joins
// Alive under its tid, answering, its stack intact.
void worker_check(struct worker* w, const char* name);
