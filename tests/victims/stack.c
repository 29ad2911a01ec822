// A deep recursion: the snapshot is taken at its bottom; the wreck leaves all frames behind and fills the stack anew.
#include "victim.h"

#include <setjmp.h>

#define DEPTH 800
static unsigned char* frames[DEPTH];
static jmp_buf top;
static unsigned round_to_come;

static void verify(void) {
  for (unsigned i = 0; i < DEPTH; ++i)
    if (!filled(frames[i], 512, 2000 + i + 10000 * victim_state)) {
      victim_fail("frame %u differs", i);
      return;
    }
}
static void become(unsigned state) {
  for (unsigned i = 0; i < DEPTH; ++i) fill(frames[i], 512, 2000 + i + 10000 * state);
}
static void make(void) {}
static void wreck(unsigned round) {
  round_to_come = round;
  longjmp(top, 1);
}
static struct victim v = {.make = make, .verify = verify, .wreck = wreck, .become = become};

static int __attribute__((noinline)) recurse(unsigned depth) {
  unsigned char frame[512];
  frames[depth] = frame;
  fill(frame, sizeof frame, 2000 + depth);
  const int result = depth + 1 == DEPTH ? victim_loop(&v, "ready\n") : recurse(depth + 1);
  if (!filled(frame, sizeof frame, 2000 + depth + 10000 * victim_state)) _exit(94);
  return result;
}
static void __attribute__((noinline)) smash(unsigned long bytes) {
  volatile unsigned char* garbage = __builtin_alloca(bytes);
  for (unsigned long i = 0; i < bytes; i += 16) garbage[i] = (unsigned char)(i + round_to_come);
}
int main(void) {
  victim_prepare();
  if (setjmp(top) == 0) return recurse(0);
  smash(round_to_come % 2 == 0 ? 4ul << 20 : 300000);
  victim_state = 999;
  return victim_loop(&v, "wrecked\n");
}
