#include "faults/victim.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

namespace relive::testing {

namespace {

constexpr int kTimerCreateRestoreIds = 77;  // linux/prctl.h of Linux 6.15
constexpr int kCapSysAdmin = 21;
constexpr int kCapCheckpointRestore = 40;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kPages = 64;
constexpr int kOpenNumber = 50;                           // at the snapshot: the file, at position 5
constexpr int kSharedNumber = 51;                         // its duplicate
constexpr int kReplacedNumber = 52;                       // at the snapshot: the file; behind it: another one
constexpr int kNewNumber = 60;                            // opened since
constexpr std::uint64_t kLonelyAddress = 0x100000000000;  // where the kernel puts nothing by itself
constexpr rlim_t kSoftLimit = 500;

// A thread that waits, and answers when asked.
struct Worker {
  std::thread thread;
  std::atomic<pid_t> tid{0};
  std::atomic<int> question{0};
  std::atomic<int> answer{0};

  void start() {
    question = answer = 0;
    tid = 0;
    thread = std::thread([this] {
      tid = ::gettid();
      tid.notify_all();
      for (int seen = 0;;) {
        question.wait(seen);
        seen = question;
        if (seen < 0) return;
        answer = seen;
      }
    });
    tid.wait(0);
  }
  void end() {
    question = -1;
    question.notify_all();
    thread.join();
  }
  bool answers() {
    const int asked = question + 1;
    question = asked;
    question.notify_all();
    for (int tries = 0; tries < 5000 && answer != asked; ++tries) ::usleep(1000);
    return answer == asked;
  }
};

class Victim {
 public:
  explicit Victim(std::string scratch) : scratch_(std::move(scratch)) {}

  bool set_up() {
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
      ::dup2(null, fd);  // shared with the test: not to be put back
    ::close(null);
    const sigset_t blocked = blocked_set();
    ::sigprocmask(SIG_BLOCK, &blocked, nullptr);
    home_ = scratch_ + "/home";
    if (::mkdir(home_.c_str(), 0700) != 0 || ::chdir(home_.c_str()) != 0) return false;
    kept_ = map(kPages, PROT_READ | PROT_WRITE);
    unmapped_ = map(kPages, PROT_READ | PROT_WRITE, kLonelyAddress);
    protected_ = map(kPages, PROT_READ | PROT_WRITE);
    fill(kept_, 1);
    fill(unmapped_, 2);
    fill(protected_, 3);
    heap_.assign(100'000, 'h');
    open_at(kOpenNumber, "kept", 5);
    ::dup3(kOpenNumber, kSharedNumber, O_CLOEXEC);
    open_at(kReplacedNumber, "replaced", 7);
    set_soft_limit(kSoftLimit);
    ::umask(027);
    ::signal(SIGTERM, SIG_IGN);
    ::alarm(1000);
    queue(SIGUSR1);
    ending_.start();
    staying_.start();
    make_timer(ending_.tid);
    return true;
  }

  bool wreck() {
    wrecked_ = true;
    fill(kept_, 11);
    ::munmap(unmapped_, kPages * kPage);
    fill(protected_, 13);
    ::mprotect(protected_, kPages / 2 * kPage, PROT_READ);
    added_ = map(kPages, PROT_READ | PROT_WRITE);
    fill(added_, 14);
    heap_.assign(3'000'000, 'H');
    ::lseek(kOpenNumber, 9, SEEK_SET);
    ::close(kSharedNumber);
    open_at(kReplacedNumber, "other", 1);
    open_at(kNewNumber, "new", 2);
    ::umask(077);
    ::signal(SIGTERM, SIG_DFL);
    ::signal(SIGUSR2, SIG_IGN);
    ::alarm(0);
    if (timer_ >= 0) ::syscall(SYS_timer_delete, timer_);
    take(SIGUSR1);
    queue(SIGRTMIN);
    if (ends_a_thread_) ending_.end();
    born_.start();
    if (::chdir("/") != 0) return false;
    set_soft_limit(100);
    return true;
  }

  char judge() {
    wrong_ = 0;
    if (wrecked_) {
      judge_wrecked();
    } else {
      judge_back();
    }
    if (wrong_ != 0) return kNeither;
    return wrecked_ ? kWrecked : kBack;
  }

 private:
  static sigset_t blocked_set() {
    sigset_t set;
    ::sigemptyset(&set);
    for (const int signal : {SIGUSR1, static_cast<int>(SIGRTMIN)}) ::sigaddset(&set, signal);
    return set;
  }
  // A timer that signals one thread, where the kernel can give its id again (Linux 6.15); else there is none.
  void make_timer(pid_t thread) {
    if (::prctl(kTimerCreateRestoreIds, 2, 0, 0, 0) < 0) return;
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR1;
    event._sigev_un._tid = thread;
    const itimerspec value{.it_interval = {}, .it_value = {.tv_sec = 1000, .tv_nsec = 0}};
    if (::syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer_) != 0) timer_ = -1;
    if (timer_ >= 0) ::syscall(SYS_timer_settime, timer_, 0, &value, nullptr);
  }
  [[nodiscard]] bool timer_runs() const {
    itimerspec value{};
    return timer_ < 0 || (::syscall(SYS_timer_gettime, timer_, &value) == 0 && value.it_value.tv_sec > 900);
  }
  static unsigned char* map(std::size_t pages, int protection, std::uint64_t hint = 0) {
    return static_cast<unsigned char*>(
        ::mmap(reinterpret_cast<void*>(hint), pages * kPage, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  }
  static void fill(unsigned char* at, int seed) {
    for (std::size_t i = 0; i < kPages * kPage; ++i)
      at[i] = static_cast<unsigned char>(static_cast<std::size_t>(seed) * 31 + i / kPage + i);
  }
  static bool filled(const unsigned char* at, int seed) {
    for (std::size_t i = 0; i < kPages * kPage; ++i) {
      if (at[i] != static_cast<unsigned char>(static_cast<std::size_t>(seed) * 31 + i / kPage + i)) return false;
    }
    return true;
  }
  static bool mapped(const void* at) {
    unsigned char seen[kPages];
    return ::mincore(const_cast<void*>(at), kPages * kPage, seen) == 0;
  }
  static bool writable(unsigned char* at) {
    int ends[2];
    if (::pipe(ends) != 0) return false;
    const bool good = ::write(ends[1], "", 1) == 1 && ::read(ends[0], at, 0) == 0;
    char old = static_cast<char>(*at);
    [[maybe_unused]] const auto n = ::write(ends[1], &old, 1);
    [[maybe_unused]] const auto skipped = ::read(ends[0], &old, 1);
    const bool wrote = ::read(ends[0], at, 1) == 1;  // EFAULT where it may not be written
    ::close(ends[0]);
    ::close(ends[1]);
    return good && wrote;
  }
  void open_at(int number, const char* name, off_t position) const {
    const int fd = ::open((scratch_ + "/" + name).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ::dup3(fd, number, O_CLOEXEC);
    ::close(fd);
    ::lseek(number, position, SEEK_SET);
  }
  static void set_soft_limit(rlim_t soft) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = soft;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  static rlim_t soft_limit() {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
  }
  static void queue(int signal) { ::sigqueue(::getpid(), signal, {.sival_int = 7}); }
  static void take(int signal) {
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, signal);
    const timespec now{};
    ::sigtimedwait(&set, nullptr, &now);
  }
  static bool pending(int signal) {
    sigset_t set;
    ::sigpending(&set);
    return ::sigismember(&set, signal) == 1;
  }
  static sighandler_t action(int signal) {
    struct sigaction now{};
    ::sigaction(signal, nullptr, &now);
    return now.sa_handler;
  }
  static mode_t umask_now() {
    const mode_t now = ::umask(0);
    ::umask(now);
    return now;
  }
  static unsigned alarm_left() {
    itimerval value{};
    ::getitimer(ITIMER_REAL, &value);
    return static_cast<unsigned>(value.it_value.tv_sec);
  }
  // The number names the file with this name, at this position.
  [[nodiscard]] bool stands(int number, const char* name, off_t position) const {
    std::error_code error;
    const auto target = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(number), error);
    return !error && target == scratch_ + "/" + name && ::lseek(number, 0, SEEK_CUR) == position;
  }
  static bool closed(int number) { return ::fcntl(number, F_GETFD) < 0 && errno == EBADF; }
  static bool may_choose_thread_ids() {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
      if (word != "CapEff:") continue;
      std::uint64_t effective = 0;
      status >> std::hex >> effective;
      return (effective >> kCapSysAdmin & 1U) != 0 || (effective >> kCapCheckpointRestore & 1U) != 0;
    }
    return false;
  }
  static std::vector<pid_t> threads() {
    std::vector<pid_t> tids;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task", error))
      tids.push_back(std::stoi(entry.path().filename()));
    std::ranges::sort(tids);
    return tids;
  }
  // A keeper's death lets its threads go; a moment later they have ended.
  static bool threads_are(std::vector<pid_t> wanted) {
    std::ranges::sort(wanted);
    for (int tries = 0; tries < 5000 && threads() != wanted; ++tries) ::usleep(1000);
    return threads() == wanted;
  }

  void expect(bool holds, const char* what) {
    if (holds) return;
    ++wrong_;
    std::ofstream(scratch_ + "/complaints", std::ios::app)
        << (wrecked_ ? "wrecked" : "back") << ": wrong: " << what << "\n";
  }

  void judge_back() {
    expect(filled(kept_, 1), "kept pages");
    expect(mapped(unmapped_) && filled(unmapped_, 2), "the range that was unmapped");
    expect(filled(protected_, 3) && writable(protected_), "the range that was protected");
    expect(added_ == nullptr, "pointer to the range mapped since");
    expect(heap_ == std::string(100'000, 'h'), "heap");
    expect(stands(kOpenNumber, "kept", 5), "position of the kept file");
    expect(stands(kSharedNumber, "kept", 5), "the descriptor that was closed");
    ::lseek(kSharedNumber, 6, SEEK_SET);
    expect(::lseek(kOpenNumber, 0, SEEK_CUR) == 6, "sharing of an open file");
    ::lseek(kSharedNumber, 5, SEEK_SET);
    expect(stands(kReplacedNumber, "replaced", 7), "the descriptor that was replaced");
    expect(closed(kNewNumber), "the descriptor opened since");
    expect(std::filesystem::current_path() == home_, "cwd");
    expect(soft_limit() == kSoftLimit, "limit");
    expect(umask_now() == 027, "umask");
    expect(action(SIGTERM) == SIG_IGN && action(SIGUSR2) == SIG_DFL, "signal actions");
    expect(alarm_left() > 900, "alarm");
    expect(timer_runs(), "timer of a thread");
    expect(pending(SIGUSR1) && !pending(SIGRTMIN), "pending signals");
    expect(threads_are({::getpid(), ending_.tid, staying_.tid}), "threads");
    expect(ending_.answers(), "the thread that had ended answers");
    expect(staying_.answers(), "the thread that stayed answers");
  }

  void judge_wrecked() {
    expect(filled(kept_, 11), "kept pages");
    expect(!mapped(unmapped_), "the range that was unmapped");
    expect(filled(protected_, 13) && !writable(protected_) && writable(protected_ + kPages / 2 * kPage),
           "the range that was protected");
    expect(added_ != nullptr && mapped(added_) && filled(added_, 14), "the range mapped since");
    expect(heap_ == std::string(3'000'000, 'H'), "heap");
    expect(stands(kOpenNumber, "kept", 9), "position of the kept file");
    expect(closed(kSharedNumber), "the descriptor that was closed");
    expect(stands(kReplacedNumber, "other", 1), "the descriptor that was replaced");
    expect(stands(kNewNumber, "new", 2), "the descriptor opened since");
    expect(std::filesystem::current_path() == "/", "cwd");
    expect(soft_limit() == 100, "limit");
    expect(umask_now() == 077, "umask");
    expect(action(SIGTERM) == SIG_DFL && action(SIGUSR2) == SIG_IGN, "signal actions");
    expect(alarm_left() == 0, "alarm");
    expect(timer_ < 0 || !timer_runs(), "timer of a thread");
    expect(!pending(SIGUSR1) && pending(SIGRTMIN), "pending signals");
    expect(ends_a_thread_ ? threads_are({::getpid(), staying_.tid, born_.tid})
                          : threads_are({::getpid(), ending_.tid, staying_.tid, born_.tid}),
           "threads");
    expect(staying_.answers(), "the thread that stayed answers");
    expect(born_.answers(), "the thread that was born answers");
  }

  std::string scratch_;
  std::string home_;
  bool wrecked_ = false;
  int wrong_ = 0;
  // A thread that ended comes back only where its id may be chosen (clone3(2): CAP_CHECKPOINT_RESTORE in the task).
  bool ends_a_thread_ = may_choose_thread_ids();
  int timer_ = -1;
  unsigned char* kept_ = nullptr;
  unsigned char* unmapped_ = nullptr;
  unsigned char* protected_ = nullptr;
  unsigned char* added_ = nullptr;
  std::string heap_;
  Worker ending_;
  Worker staying_;
  Worker born_;
};

}  // namespace

int run_victim(ChildEnd end, const std::string& scratch) {
  static Victim* victim = nullptr;  // never destroyed: its threads wait for ever
  victim = new Victim(scratch);
  end.say(victim->set_up() ? 'y' : 'n');
  for (;;) {
    const char word = end.hear();
    end.say(word == kWreck ? (victim->wreck() ? 'y' : 'n') : victim->judge());
  }
}

}  // namespace relive::testing
