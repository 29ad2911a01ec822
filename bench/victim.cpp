// What the benchmarks roll back: a process with so many threads and so much memory, that dirties pages on command.
//
//     victim THREADS MIB
//
// THREADS counts the main one; the others sleep in a futex. All memory is written once before it says "ready". Then it
// answers each line on stdin with one on stdout:
//
//     dirty PAGES SEED   writes PAGES scattered pages               -> "ok"
//     sum                reads all memory                           -> a checksum, in decimal
//
// It keeps no state of its own between two commands (raw read(2), seeds from outside), so it can be rolled back between
// any two of them.
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>

#include "bench/scattered.h"

namespace {

constexpr std::uint64_t kPage = 4096;

std::mutex mutex;
std::condition_variable never;

void sleep_for_ever() {
  std::unique_lock lock(mutex);
  for (;;) never.wait(lock);
}

void say(const std::string& line) {
  if (::write(1, line.data(), line.size()) != static_cast<ssize_t>(line.size())) std::_Exit(1);
}

// One line; the driver sends the next only after our answer.
std::string hear() {
  std::string line(128, '\0');
  const auto n = ::read(0, line.data(), line.size());
  if (n <= 0) std::_Exit(0);
  line.resize(static_cast<std::size_t>(n));
  return line;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: victim THREADS MIB\n");
    return 2;
  }
  const auto bytes = std::strtoull(argv[2], nullptr, 10) << 20;
  auto* memory =
      static_cast<std::byte*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) return 1;
  ::madvise(memory, bytes, MADV_NOHUGEPAGE);  // pages are what is counted
  for (std::uint64_t at = 0; at < bytes; at += sizeof at) std::memcpy(memory + at, &at, sizeof at);
  for (auto threads = std::strtol(argv[1], nullptr, 10); threads > 1; --threads) std::thread(sleep_for_ever).detach();

  say("ready\n");
  for (;;) {
    const auto line = hear();
    if (line.starts_with("dirty ")) {
      char* rest = nullptr;
      const auto count = std::strtoull(line.c_str() + 6, &rest, 10);
      const auto seed = std::strtoull(rest, nullptr, 10);
      for (const auto page : relive::bench::scattered(bytes / kPage, count, seed))
        memory[page * kPage + 128] ^= std::byte{0xff};
      say("ok\n");
    } else if (line.starts_with("sum")) {
      std::uint64_t sum = 0;
      for (std::uint64_t at = 0; at < bytes; at += sizeof sum) {
        std::uint64_t word = 0;
        std::memcpy(&word, memory + at, sizeof word);
        sum = (sum << 1 | sum >> 63) ^ word;
      }
      say(std::to_string(sum) + "\n");
    } else {
      say("what?\n");
    }
  }
}
