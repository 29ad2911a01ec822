// What tests of descriptors look with, from outside and inside a child.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <string_view>

namespace relive {

// In a function of a child that answers whether all is well: it is not, and the test's output says why.
#define WANT(...)                                                                                                    \
  do {                                                                                                               \
    if (!(__VA_ARGS__)) {                                                                                            \
      std::fprintf(stderr, "task %d, line %d: %s (%s)\n", ::getpid(), __LINE__, #__VA_ARGS__, std::strerror(errno)); \
      return false;                                                                                                  \
    }                                                                                                                \
  } while (false)

// Does fdinfo tell of an eventfd whether it is a semaphore (Linux 6.5)?
inline bool semaphores_are_told() {
  const int counter = ::eventfd(0, EFD_CLOEXEC);
  std::ifstream file("/proc/self/fdinfo/" + std::to_string(counter));
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  ::close(counter);
  return text.find("eventfd-semaphore") != std::string::npos;
}

// "3 -> /tmp/x" of every descriptor of a process.
inline std::set<std::string> descriptors_of(pid_t pid) {
  std::set<std::string> out;
  const std::string path = "/proc/" + std::to_string(pid) + "/fd";
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path)) names.insert(entry.path().filename());
  for (const auto& name : names) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(path + "/" + name, gone);
    if (!gone) out.insert(name + " -> " + target.string());
  }
  return out;
}

inline std::string temporary(const char* name) { return "/tmp/relive-" + std::to_string(::getpid()) + "-" + name; }

inline bool write_all(int fd, std::string_view text) {
  return ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// What is there to be read now, without blocking.
inline std::string read_now(int fd) {
  std::string out;
  char buffer[4096];
  pollfd one{.fd = fd, .events = POLLIN, .revents = 0};
  while (::poll(&one, 1, 0) == 1 && (one.revents & POLLIN) != 0) {
    const ssize_t size = ::read(fd, buffer, sizeof buffer);
    if (size <= 0) break;
    out.append(buffer, static_cast<std::size_t>(size));
  }
  return out;
}

inline bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

}  // namespace relive
