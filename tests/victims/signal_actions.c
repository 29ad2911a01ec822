// The action of every signal: handler, flags and mask.
#include "victim.h"

static void a(int s) { (void)s; }
static void b(int s) { (void)s; }
static void c(int s, siginfo_t* i, void* u) { (void)s, (void)i, (void)u; }
struct kernel_action {
  void* handler;
  uint64_t flags;
  void* restorer;
  uint64_t mask;
};
__attribute__((naked)) static void restorer(void) { __asm__("mov $15, %eax\nsyscall"); }

static bool ours(int n) { return n != SIGKILL && n != SIGSTOP && n != 32 && n != 33; }
static struct kernel_action wanted(int n, unsigned state) {
  void* const handlers[] = {(void*)a, (void*)b, (void*)c, SIG_IGN, SIG_DFL};
  const uint64_t flags[] = {SA_RESTART,  SA_SIGINFO, SA_NODEFER, SA_ONSTACK | SA_RESTART, SA_NOCLDSTOP | SA_SIGINFO,
                            SA_RESETHAND};
  struct kernel_action action = {handlers[((unsigned)n + state) % 5], flags[((unsigned)n + state) % 6] | 0x04000000,
                                 (void*)restorer, 0};
  action.mask = pattern_word(1234 + state, (uint64_t)n) & ~(1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1));
  return action;
}
static void set(unsigned state) {
  for (int n = 1; n <= 64; ++n) {
    if (!ours(n)) continue;
    const struct kernel_action action = wanted(n, state);
    MUST(syscall(SYS_rt_sigaction, n, &action, NULL, 8));
  }
}
static void make(void) { set(0); }
static void become(unsigned state) { set(state); }
static void verify(void) {
  for (int n = 1; n <= 64; ++n) {
    if (!ours(n)) continue;
    const struct kernel_action want = wanted(n, victim_state);
    struct kernel_action found = {0};
    syscall(SYS_rt_sigaction, n, NULL, &found, 8);
    CHECK(found.handler == want.handler, "handler of signal %d differs", n);
    CHECK(found.flags == want.flags, "flags of signal %d are %llx", n, (unsigned long long)found.flags);
    CHECK(found.mask == want.mask, "mask of signal %d is %llx", n, (unsigned long long)found.mask);
    CHECK(found.restorer == want.restorer, "restorer of signal %d differs", n);
  }
}
static void wreck(unsigned round) { set(100 + round * 7); }

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
