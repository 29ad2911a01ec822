// General registers, x87, SSE, AVX, AVX-512 and the mask registers, held by assembly in threads that spin on a flag and
// in threads that stand in read(2). While they hold, the values are in no memory that the threads would read again.
#include "victim.h"

#include <cpuid.h>
#include <stddef.h>

#define AREA 8192
#define THREADS 4         // the even ones spin, the odd ones read
#define COMPONENTS 0xe7u  // x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM; not the protection keys

// A thread's stack pointer points here while it holds its values: no other register is needed to find them.
struct block {
  char room_for_signal_frames[65536];
  _Atomic uint64_t flag;  // 0: hold, 1: dump, 2: load other values, 3: return
  _Atomic uint64_t answered;
  uint64_t stack;  // the C stack pointer
  uint64_t pipe;
  uint64_t bytes;
  uint64_t mask;
  _Atomic uint64_t bad_result;  // of read(2)
  uint64_t unused;
  uint64_t load[16];  // rax rbx rcx rdx rsi rdi rbp r8 ... r15
  uint64_t found[16];
  uint8_t load_area[AREA] __attribute__((aligned(64)));
  uint8_t found_area[AREA] __attribute__((aligned(64)));
} __attribute__((aligned(64)));

#define START 65536
_Static_assert(offsetof(struct block, flag) == START, "");
_Static_assert(offsetof(struct block, load) == START + 64, "");
_Static_assert(offsetof(struct block, found) == START + 192, "");
_Static_assert(offsetof(struct block, load_area) == START + 320, "");
_Static_assert(offsetof(struct block, found_area) == START + 320 + AREA, "");

void hold(struct block* at_flag, int reads);
// Offsets from &block.flag: answered 8, stack 16, pipe 24, bytes 32, mask 40, bad_result 48, load 64, found 192, areas
// 320 and 320 + 8192.
__asm__(
    ".text\n.globl hold\n.type hold, @function\nhold:\n"
    "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, 16(%rdi)\nmov %rdi, %rsp\nmov %esi, 56(%rsp)\n"
    "1:\nmov 40(%rsp), %eax\nxor %edx, %edx\nxrstor64 320(%rsp)\n"
    "mov 64(%rsp), %rax\nmov 72(%rsp), %rbx\nmov 80(%rsp), %rcx\nmov 88(%rsp), %rdx\nmov 96(%rsp), %rsi\n"
    "mov 104(%rsp), %rdi\nmov 112(%rsp), %rbp\nmov 120(%rsp), %r8\nmov 128(%rsp), %r9\nmov 136(%rsp), %r10\n"
    "mov 144(%rsp), %r11\nmov 152(%rsp), %r12\nmov 160(%rsp), %r13\nmov 168(%rsp), %r14\nmov 176(%rsp), %r15\n"
    "movq $1, 8(%rsp)\n"
    "2:\ncmpl $0, 56(%rsp)\njne 3f\n"
    "pause\ncmpq $0, (%rsp)\nje 2b\njmp 4f\n"
    "3:\nmov $0, %eax\nmov 24(%rsp), %rdi\nlea 32(%rsp), %rsi\nmov $1, %edx\nsyscall\n"
    "cmp $1, %rax\nje 4f\nmov %rax, 48(%rsp)\njmp 3b\n"
    "4:\ncmpq $3, (%rsp)\nje 5f\ncmpq $2, (%rsp)\njne 6f\nmovq $0, (%rsp)\njmp 1b\n"
    "6:\nmov %rax, 192(%rsp)\nmov %rbx, 200(%rsp)\nmov %rcx, 208(%rsp)\nmov %rdx, 216(%rsp)\nmov %rsi, 224(%rsp)\n"
    "mov %rdi, 232(%rsp)\nmov %rbp, 240(%rsp)\nmov %r8, 248(%rsp)\nmov %r9, 256(%rsp)\nmov %r10, 264(%rsp)\n"
    "mov %r11, 272(%rsp)\nmov %r12, 280(%rsp)\nmov %r13, 288(%rsp)\nmov %r14, 296(%rsp)\nmov %r15, 304(%rsp)\n"
    "mov 40(%rsp), %eax\nxor %edx, %edx\nxsave64 8512(%rsp)\n"
    "mov 192(%rsp), %rax\nmov 216(%rsp), %rdx\n"
    "movq $0, (%rsp)\nmovq $1, 8(%rsp)\njmp 2b\n"
    "5:\nmov 16(%rsp), %rsp\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\n"
    "fninit\nret\n.size hold, .-hold\n");

static struct block blocks[THREADS];
static pthread_t threads[THREADS];
static int pipes[THREADS][2];
static struct {
  uint32_t offset, size;
} component[8];

static uint32_t find_components(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & bit_OSXSAVE) == 0)
    victim_skip("needs xsave: registers are loaded and stored with it");
  __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  const uint32_t mask = a & COMPONENTS;
  for (unsigned i = 2; i < 8; ++i) {
    if ((mask >> i & 1) == 0) continue;
    __cpuid_count(13, i, component[i].size, component[i].offset, c, d);
  }
  return mask;
}

static void invent(struct block* to, uint64_t seed) {
  for (unsigned i = 0; i < 16; ++i) to->load[i] = pattern_word(seed, i);
  uint8_t* a = to->load_area;
  memset(a, 0, AREA);
  const uint16_t control_word = seed < 70000 ? 0x0c7f : 0x037f;  // x87: round towards zero, 24 bits; or the usual
  memcpy(a, &control_word, 2);
  a[4] = 0xff;                                            // every x87 register is in use
  const uint32_t mxcsr = seed < 70000 ? 0x5f80 : 0x1f80;  // SSE: round up; or the usual
  memcpy(a + 24, &mxcsr, 4);
  for (unsigned i = 0; i < 8; ++i) {
    const uint64_t mantissa = pattern_word(seed, 100 + i) | 1ull << 63;
    const uint16_t exponent = (uint16_t)(16383 + i);
    memcpy(a + 32 + 16 * i, &mantissa, 8);
    memcpy(a + 40 + 16 * i, &exponent, 2);
  }
  fill(a + 160, 256, seed + 1);
  const uint64_t present = to->mask;
  memcpy(a + 512, &present, 8);
  for (unsigned i = 2; i < 8; ++i)
    if (component[i].size != 0) fill(a + component[i].offset, component[i].size, seed + i);
}

static uint64_t seed(int i) { return 5000 + 100 * (uint64_t)i + 1000 * victim_state; }

static void ask(int i, uint64_t flag) {
  struct block* b = &blocks[i];
  b->answered = 0;
  b->flag = flag;
  if (i % 2 == 1 && write(pipes[i][1], "x", 1) != 1) victim_fail("write to a holding thread: %s", strerror(errno));
  for (const double until = now() + 20; b->answered == 0 && now() < until;) sched_yield();
  CHECK(b->answered != 0, "thread %d does not answer", i);
}

static void* run(void* argument) {
  const int i = (int)(intptr_t)argument;
  hold((struct block*)(void*)&blocks[i].flag, i % 2);
  return NULL;
}

static void make(void) {
  const uint32_t mask = find_components();
  for (int i = 0; i < THREADS; ++i) {
    blocks[i].mask = mask;
    invent(&blocks[i], seed(i));
    MUST(pipe2(pipes[i], O_CLOEXEC));
    blocks[i].pipe = (uint64_t)pipes[i][0];
    pthread_create(&threads[i], NULL, run, (void*)(intptr_t)i);
    while (blocks[i].answered == 0) sched_yield();
  }
}

static void verify(void) {
  static struct block expected;
  for (int i = 0; i < THREADS; ++i) {
    struct block* b = &blocks[i];
    expected.mask = b->mask;
    invent(&expected, seed(i));
    memset(b->found, 0xee, sizeof b->found);
    memset(b->found_area, 0, AREA);
    ask(i, 1);
    static const char* const names[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8",
                                        "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    for (int r = 0; r < 15; ++r) {
      const bool used_by_call = r == 0 || (r >= 2 && r <= 5) || r == 10;
      if (i % 2 == 1 && used_by_call) continue;
      CHECK(b->found[r] == expected.load[r], "thread %d: %s differs", i, names[r]);
    }
    CHECK(memcmp(b->found_area, expected.load_area, 2) == 0, "thread %d: x87 control word differs", i);
    CHECK(b->found_area[4] == 0xff, "thread %d: x87 tags differ", i);
    CHECK(memcmp(b->found_area + 24, expected.load_area + 24, 4) == 0, "thread %d: MXCSR differs", i);
    for (int r = 0; r < 8; ++r)
      CHECK(memcmp(b->found_area + 32 + 16 * r, expected.load_area + 32 + 16 * r, 10) == 0, "thread %d: st%d differs",
            i, r);
    CHECK(memcmp(b->found_area + 160, expected.load_area + 160, 256) == 0, "thread %d: XMM differs", i);
    for (int c = 2; c < 8; ++c)
      if (component[c].size != 0)
        CHECK(memcmp(b->found_area + component[c].offset, expected.load_area + component[c].offset,
                     component[c].size) == 0,
              "thread %d: extended state %d differs", i, c);
    CHECK_EQUAL("bad result of read(2)", b->bad_result, 0);
  }
}

static void load(uint64_t offset) {
  for (int i = 0; i < THREADS; ++i) {
    invent(&blocks[i], seed(i) + offset);
    ask(i, 2);
  }
}
static void become(unsigned state) {
  (void)state;
  load(0);
}
static void wreck(unsigned round) { load(77777 + round); }

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
