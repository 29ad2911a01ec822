// What a puppet (puppet.c) is told to do, and what came of it: one system call. It lies in the puppet's own memory,
// where the one who gives orders (puppets.h) writes it with process_vm_writev(2); so puppets share nothing with anybody
// but what they are told to.
#pragma once

#include <stdint.h>

enum { kPuppetPages = 8, kPuppetTextSize = 128 };
enum { kPuppetBump = -1 };  // instead of a system call: adds one to the page arguments[0]

struct PuppetOrder {
  int64_t todo;  // 1: carry it out; 0: it is done
  int64_t number;
  uint64_t arguments[6];
  int64_t result;              // or -errno
  char text[kPuppetTextSize];  // whatever the arguments point to
};
