// The heap: a malloc'ed list, large blocks, and the program break, which moves both ways.
#include "victim.h"

#include <malloc.h>

struct node {
  struct node* next;
  unsigned size;
  unsigned char bytes[];
};
static struct node* list;
static unsigned char* large;
static void* brk_block;
static void* program_break;
#define NODES 3000
#define LARGE (3 << 20)
#define BRK (64 * PAGE)

static uint64_t seed(void) { return 3000 + 100000 * (uint64_t)victim_state; }
static void free_list(void) {
  for (struct node *n = list, *next; n != NULL; n = next) {
    next = n->next;
    free(n);
  }
  list = NULL;
}
static void build(void) {
  for (unsigned i = 0; i < NODES; ++i) {
    const unsigned size = 1 + (unsigned)(pattern_word(7, i) % 600);
    struct node* n = malloc(sizeof *n + size);
    n->next = list;
    n->size = size;
    fill(n->bytes, size, seed() + i);
    list = n;
  }
  fill(large, LARGE, seed() + 50000);
  fill(brk_block, BRK, seed() + 50001);
  program_break = sbrk(0);
}
static void make(void) {
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
  large = malloc(LARGE);
  brk_block = sbrk(BRK);
  build();
}
static void become(unsigned state) {
  (void)state;
  free_list();
  build();
}
static void verify(void) {
  CHECK(large != NULL, "the large block is gone");
  if (large == NULL) return;
  unsigned i = NODES;
  for (const struct node* n = list; n != NULL; n = n->next) {
    --i;
    if (n->size != 1 + (unsigned)(pattern_word(7, i) % 600) || !filled(n->bytes, n->size, seed() + i)) {
      victim_fail("node %u differs", i);
      return;
    }
    if (i == 0) CHECK(n->next == NULL, "the list is too long");
    if (i == 0) break;
  }
  CHECK_EQUAL("nodes missing", i, 0);
  CHECK(filled(large, LARGE, seed() + 50000), "the large block differs");
  CHECK(filled(brk_block, BRK, seed() + 50001), "the block at the break differs");
  CHECK(sbrk(0) == program_break, "the break is %p, want %p", sbrk(0), program_break);
  free(malloc(100));
}
static void wreck(unsigned round) {
  if (round % 3 == 0) {
    memset(brk_block, 0x66, BRK);
    void* more = sbrk(200 * (long)PAGE);
    memset(more, 0x77, 200 * PAGE);
  }
  free_list();
  free(large);
  malloc_trim(0);
  for (int i = 0; i < 2000; ++i) {
    void* p = malloc(1000);
    memset(p, 0x55, 1000);
  }
  large = NULL;
  // Last, since malloc's own top goes with it.
  if (round % 3 == 1) MUST(brk((char*)brk_block + BRK / 2));
}

int main(void) {
  return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = become});
}
