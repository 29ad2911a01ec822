// A process for live tests to work on: a fork of the test that runs a function and talks over two pipes.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>

#include "base/unique_fd.h"
#include "model/ids.h"

namespace relive::testing {

// What a test's runner has left open in us (ctest: its log) is no state of a child of ours: it moves by itself.
inline const long kNothingInherited = ::syscall(SYS_close_range, 3, ~0U, 0);

// The child's side: one byte a word. The child ends when the parent's side is gone.
class ChildEnd {
 public:
  ChildEnd(int in, int out) : in_(in), out_(out) {}
  void say(char word) const {
    if (::write(out_, &word, 1) != 1) ::_exit(99);
  }
  // Blocks in read(2) until the parent says something.
  [[nodiscard]] char hear() const {
    char word = 0;
    if (::read(in_, &word, 1) != 1) ::_exit(99);
    return word;
  }

 private:
  int in_;
  int out_;
};

// Ends (SIGKILL) and reaps its process in the destructor.
class Child {
 public:
  // Runs `body` in a fork; its return value is the exit status. Returns as soon as the child says its first word.
  explicit Child(const std::function<int(ChildEnd)>& body) {
    int down[2];
    int up[2];
    if (::pipe2(down, O_CLOEXEC) != 0 || ::pipe2(up, O_CLOEXEC) != 0) ::abort();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::close(down[1]);
      ::close(up[0]);
      ::_exit(body(ChildEnd(down[0], up[1])));
    }
    ::close(down[0]);
    ::close(up[1]);
    to_.reset(down[1]);
    from_.reset(up[0]);
    first_word_ = hear();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0 && !reaped_) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }

  [[nodiscard]] model::Pid pid() const { return model::Pid{pid_}; }
  [[nodiscard]] char first_word() const { return first_word_; }
  void say(char word) const { [[maybe_unused]] const auto n = ::write(to_.get(), &word, 1); }
  // 0 when the child is gone.
  [[nodiscard]] char hear() const {
    char word = 0;
    return ::read(from_.get(), &word, 1) == 1 ? word : '\0';
  }
  // As hear(), but 0 also when nothing was said in time: for a child that may be stuck.
  [[nodiscard]] char hear_within(int milliseconds) const {
    pollfd said{.fd = from_.get(), .events = POLLIN, .revents = 0};
    return ::poll(&said, 1, milliseconds) == 1 ? hear() : '\0';
  }
  // One question, one answer.
  [[nodiscard]] char ask(char word) const {
    say(word);
    return hear();
  }
  // Waits for the child's end; returns the wait status.
  int wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    reaped_ = true;
    return status;
  }

 private:
  pid_t pid_ = -1;
  bool reaped_ = false;
  char first_word_ = 0;
  UniqueFd to_;
  UniqueFd from_;
};

}  // namespace relive::testing
