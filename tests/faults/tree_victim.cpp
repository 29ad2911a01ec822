#include "faults/tree_victim.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <vector>

#include "faults/victim.h"

namespace relive::testing {

namespace {

volatile sig_atomic_t ends_seen = 0;
void see_end(int /*signal*/) { ends_seen = ends_seen + 1; }

// A child answers each word with its count, which it keeps in memory of its own.
struct Kid {
  pid_t pid = 0;
  int to = -1;
  int from = -1;

  static Kid make(int count, uid_t user = ::geteuid()) {
    return fork_with_pipes([=](int orders, int answers) {
      if (user != ::geteuid() &&
          (::setgroups(0, nullptr) != 0 || ::setresgid(user, user, user) != 0 || ::setresuid(user, user, user) != 0))
        ::_exit(1);
      const pid_t parent = ::getppid();
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      int counted = count;
      for (char word = 0; ::getppid() == parent && ::read(orders, &word, 1) == 1;) {
        if (word == '+') ++counted;
        if (word == 'x') ::_exit(5);
        const int answer = word == 'u' ? static_cast<int>(::getuid() + ::geteuid()) : counted;
        if (::write(answers, &answer, sizeof answer) != sizeof answer) break;
      }
      ::_exit(0);
    });
  }
  // Another program: it says what it hears.
  static Kid make_echo() {
    return fork_with_pipes([](int orders, int answers) {
      ::dup2(orders, STDIN_FILENO);
      ::dup2(answers, STDOUT_FILENO);
      ::execlp("cat", "cat", nullptr);
      ::_exit(1);
    });
  }
  template <class Act>
  static Kid fork_with_pipes(Act act) {
    std::array<int, 2> down{};
    std::array<int, 2> up{};
    if (::pipe2(down.data(), O_CLOEXEC) != 0 || ::pipe2(up.data(), O_CLOEXEC) != 0) std::abort();
    Kid kid{.pid = ::fork(), .to = down[1], .from = up[0]};
    if (kid.pid == 0) {
      ::close(down[1]);
      ::close(up[0]);
      act(down[0], up[1]);
    }
    ::close(down[0]);
    ::close(up[1]);
    return kid;
  }
  [[nodiscard]] bool echoes() const {
    const char said = 'e';
    char heard = 0;
    return ::write(to, &said, 1) == 1 && ::read(from, &heard, 1) == 1 && heard == said;
  }
  int ask(char word) const {  // NOLINT(modernize-use-nodiscard)
    int count = -1;
    if (::write(to, &word, 1) != 1 || ::read(from, &count, sizeof count) != sizeof count) return -1;
    return count;
  }
  void forget() const {
    ::close(to);
    ::close(from);
  }
};

struct Family {
  Kid stays, ends, falls, comes, echo;
  int* shared = nullptr;
  int ends_before = 0;
};

// Whom a child can become that then has fewer rights than its parent.
uid_t lesser_user() { return ::geteuid() == 0 ? 65534 : ::geteuid(); }

void set_up(Family& family) {
  struct sigaction action{};
  action.sa_handler = see_end;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGCHLD, &action, nullptr);
  family.shared = static_cast<int*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  *family.shared = 77;
  family.stays = Kid::make(100);
  family.ends = Kid::make(200, lesser_user());
  family.falls = Kid::make(300);
  family.echo = Kid::make_echo();
  if (!family.echo.echoes()) std::abort();
}

bool ended_unseen(pid_t pid) {
  siginfo_t info{};
  return ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT | WNOHANG) == 0 && info.si_pid == pid &&
         info.si_code == CLD_KILLED && info.si_status == SIGKILL;
}

void wreck(Family& family) {
  const int seen = ends_seen;
  family.stays.ask('+');
  const char word = 'x';
  if (::write(family.ends.to, &word, 1) != 1) std::abort();
  ::waitpid(family.ends.pid, nullptr, 0);
  family.ends.forget();
  while (ends_seen == seen) ::usleep(1000);  // one signal for each, not one for both
  ::kill(family.falls.pid, SIGKILL);
  siginfo_t info{};
  ::waitid(P_PID, static_cast<id_t>(family.falls.pid), &info, WEXITED | WNOWAIT);
  family.falls.forget();
  while (ends_seen == seen + 1) ::usleep(1000);
  family.echo.forget();  // it ends
  ::waitpid(family.echo.pid, nullptr, 0);
  while (ends_seen == seen + 2) ::usleep(1000);
  family.comes = Kid::make(400);
  *family.shared = 78;
}

// What is not as it was; empty if all is.
std::string not_back(const Family& family) {
  if (const int count = family.stays.ask('?'); count != 100) return "the first child counts " + std::to_string(count);
  if (const int count = family.ends.ask('?'); count != 200) return "the second child counts " + std::to_string(count);
  if (const int count = family.falls.ask('?'); count != 300) return "the third child counts " + std::to_string(count);
  if (family.ends.ask('u') != static_cast<int>(2 * lesser_user())) return "the second child is another user";
  if (!family.echo.echoes()) return "the other program is silent";
  if (*family.shared != 77) return "shared memory holds " + std::to_string(*family.shared);
  if (ends_seen != 0) return std::to_string(ends_seen) + " ends were seen";
  if (const pid_t pid = ::waitpid(-1, nullptr, WNOHANG); pid != 0) return "waited for " + std::to_string(pid);
  return {};
}

std::string not_wrecked(const Family& family) {
  if (const int count = family.stays.ask('?'); count != 101) return "the first child counts " + std::to_string(count);
  if (::kill(family.ends.pid, 0) == 0) return "the second child is there";
  if (!ended_unseen(family.falls.pid)) return "the third child is no zombie";
  if (const int count = family.comes.ask('?'); count != 400) return "the new child counts " + std::to_string(count);
  if (*family.shared != 78) return "shared memory holds " + std::to_string(*family.shared);
  if (::kill(family.echo.pid, 0) == 0) return "the other program is there";
  if (ends_seen != 3) return std::to_string(ends_seen) + " ends were seen";
  return {};
}

}  // namespace

int run_tree_victim(ChildEnd end, const std::string& scratch) {
  Family family;
  set_up(family);
  end.say('y');
  for (bool wrecked = false;;) {
    const char word = end.hear();
    if (word == kWreck) {
      wreck(family);
      wrecked = true;
      end.say('y');
      continue;
    }
    const std::string wrong = wrecked ? not_wrecked(family) : not_back(family);
    if (!wrong.empty()) std::ofstream(scratch + "/complaints") << wrong << "\n";
    end.say(!wrong.empty() ? kNeither : wrecked ? kWrecked : kBack);
  }
}

}  // namespace relive::testing
