// What comparing a task with its image costs at least: a file of pages is read, piece by piece, and compared with
// memory, in one process and by hand. The file is in the page cache, as an image is that has just been written.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace {

constexpr std::size_t kPiece = std::size_t{256}
                               << 10;  // both stay in the processor's cache; of 64 KiB to 4 MiB the best

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr,
                 "usage: bare_compare MIB FILE   (a line of microseconds for each on stdin; FILE is written)\n");
    return 2;
  }
  const std::uint64_t bytes = std::strtoull(argv[1], nullptr, 10) << 20;
  const auto memory = std::make_unique<std::byte[]>(bytes);
  for (std::uint64_t at = 0; at < bytes; at += sizeof at) std::memcpy(memory.get() + at, &at, sizeof at);
  const int file = ::open(argv[2], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) die(argv[2]);
  for (std::uint64_t at = 0; at < bytes; at += kPiece)
    if (::pwrite(file, memory.get() + at, kPiece, static_cast<off_t>(at)) != static_cast<ssize_t>(kPiece))
      die("pwrite");
  const auto buffer = std::make_unique<std::byte[]>(kPiece);
  char line[64];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    const auto then = std::chrono::steady_clock::now();
    std::uint64_t differ = 0;
    for (std::uint64_t at = 0; at < bytes; at += kPiece) {
      if (::pread(file, buffer.get(), kPiece, static_cast<off_t>(at)) != static_cast<ssize_t>(kPiece)) die("pread");
      differ += std::memcmp(buffer.get(), memory.get() + at, kPiece) != 0 ? 1 : 0;
    }
    const auto took = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - then);
    if (differ != 0) return 1;
    std::printf("%.1f\n", took.count());
    std::fflush(stdout);
  }
  return 0;
}
