#include "faults/kinds_victim.h"

#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <vector>

#include "faults/victim.h"

namespace relive::testing {

namespace {

constexpr int kFirst = 100;      // numbers below are not this program's
constexpr int kOldNumber = 140;  // and the next
constexpr int kMore = 50;        // between the one and the other of a kind

// The one at kind, which wreck() closes, and the other at kind + kMore, which it changes.
enum Kind : int {
  kCounter = kFirst,
  kTimer,
  kSignals,
  kWatches,
  kProcess,
  kMemory,
  kSlave,
  kQueue,
  kGrams,
  kGramsPeer,
  kPackets,
  kPacketsPeer,
  kStream,
  kStreamPeer,
  kPipeOut,
  kPipeIn,
  kFifo,
  kSet,
  kListener,
  kPort,
  kLocked,
  kMoved,   // in the set by a number that it has left
  kMaster,  // of both terminals; neither is closed
};

std::string slurp(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}
std::string link_of(int fd) {
  std::error_code error;
  return std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", fd), error).string();
}

// What is open under a number, but for what the kernel counts up: ids, inodes of objects without a name, the time.
std::string portrait(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return "closed";
  std::string link = link_of(fd);
  if (!link.starts_with('/')) link.resize(std::min(link.find(":["), link.size()));
  std::string out = fmt::format("{} flags {:o} {}", link, ::fcntl(fd, F_GETFL), ::fcntl(fd, F_GETFD));
  std::istringstream info(slurp(fmt::format("/proc/self/fdinfo/{}", fd)));
  std::set<std::string> lines;  // an epoll set tells its entries in no order
  for (std::string line; std::getline(info, line);) {
    const auto begins = [&](std::string_view with) { return line.starts_with(with); };
    if (begins("mnt_id") || begins("ino:") || begins("eventfd-id") || begins("it_value") || begins("flags")) continue;
    if (begins("tfd:")) line.resize(line.find(" pos:"));
    if (begins("lock:")) line = line.substr(line.find("  "));
    lines.insert("; " + line);
  }
  for (const std::string& line : lines) out += line;
  int unread = 0;
  if (link.starts_with("anon_inode:inotify") && ::ioctl(fd, FIONREAD, &unread) == 0)
    out += fmt::format("; {} unread", unread);
  if (S_ISFIFO(status.st_mode) && ::ioctl(fd, FIONREAD, &unread) == 0)
    out += fmt::format("; {} unread of {}", unread, ::fcntl(fd, F_GETPIPE_SZ));
  if (link.starts_with("/memfd")) {
    std::array<char, 16> begin{};
    const ssize_t size = ::pread(fd, begin.data(), begin.size(), 0);
    out += fmt::format("; {} bytes: {}", status.st_size, std::string(begin.data(), static_cast<std::size_t>(size)));
  }
  itimerspec timer{};
  if (::timerfd_gettime(fd, &timer) == 0) out += fmt::format("; left {}", (timer.it_value.tv_sec + 50) / 100);
  termios modes{};
  if (::tcgetattr(fd, &modes) == 0) out += fmt::format("; modes {:o}", modes.c_lflag);
  return out;
}

// The first unread message, and what travels with it; the name.
std::string portrait_of_socket(int fd) {
  int listens = 0;
  socklen_t size = sizeof listens;
  if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0) return {};
  sockaddr_storage name{};
  socklen_t length = sizeof name;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length);
  std::string out = fmt::format("; listens {}, name", listens);
  for (socklen_t at = 0; at < length; ++at)
    out += fmt::format(" {:x}", reinterpret_cast<const unsigned char*>(&name)[at]);
  std::array<char, 64> text{};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(4 * sizeof(int))> control{};
  iovec piece{text.data(), text.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t got = ::recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) return out;
  out += "; unread " + std::string(text.data(), static_cast<std::size_t>(got));
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    for (std::size_t at = CMSG_LEN(0); at < header->cmsg_len; at += sizeof(int)) {
      int file = -1;
      std::memcpy(&file, reinterpret_cast<const char*>(header) + at, sizeof file);
      out += " with " + portrait(file);
      ::close(file);
    }
  }
  return out;
}

std::vector<std::string> portrait_of_all() {
  std::vector<std::string> out;
  std::set<int> numbers;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    numbers.insert(std::stoi(entry.path().filename()));
  for (const int fd : numbers)
    if (fd >= kFirst && ::fcntl(fd, F_GETFD) >= 0)
      out.push_back(fmt::format("{}: {}{}", fd, portrait(fd), portrait_of_socket(fd)));
  return out;
}

bool put(int from, int to) { return from >= 0 && ::dup3(from, to, O_CLOEXEC) == to && ::close(from) == 0; }

bool put_two(const std::array<int, 2>& from, int first, int second) {
  return put(from[0], first) && put(from[1], second);
}

bool send_file(int socket, const char* text, int file) {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  iovec piece{const_cast<char*>(text), std::strlen(text)};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  *header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  std::memcpy(CMSG_DATA(header), &file, sizeof file);
  return ::sendmsg(socket, &message, MSG_DONTWAIT) > 0;
}

class Victim {
 public:
  explicit Victim(std::string scratch) : scratch_(std::move(scratch)) {}

  bool set_up() {
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null, fd);
    ::close(null);
    if (::chdir(scratch_.c_str()) != 0) return false;
    ::mkdir("watched", 0700);
    const bool made = make(0) && make(kMore);
    back_ = portrait_of_all();
    return made;
  }

  bool wreck() {
    wrecked_ = true;
    for (int fd = kFirst; fd < kMaster; ++fd) ::close(fd);
    const bool changed = change();
    gone_ = portrait_of_all();
    return changed;
  }

  [[nodiscard]] char judge() const {
    const auto& wanted = wrecked_ ? gone_ : back_;
    const auto now = portrait_of_all();
    if (now == wanted) return wrecked_ ? kWrecked : kBack;
    std::ofstream complaints(scratch_ + "/complaints", std::ios::app);
    complaints << (wrecked_ ? "wrecked" : "back") << "\n";
    for (const std::string& line : now)
      if (std::ranges::find(wanted, line) == wanted.end()) complaints << "  is:     " << line << "\n";
    for (const std::string& line : wanted)
      if (std::ranges::find(now, line) == now.end()) complaints << "  wanted: " << line << "\n";
    return kNeither;
  }

 private:
  static bool make(int more) {
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGUSR1);
    const itimerspec time{.it_interval = {.tv_sec = 7, .tv_nsec = 0}, .it_value = {.tv_sec = 1000, .tv_nsec = 0}};
    if (!put(::eventfd(5, 0), kCounter + more) || !put(::timerfd_create(CLOCK_MONOTONIC, 0), kTimer + more) ||
        ::timerfd_settime(kTimer + more, 0, &time, nullptr) != 0 ||
        !put(::signalfd(-1, &signals, 0), kSignals + more) || !put(::inotify_init1(IN_NONBLOCK), kWatches + more) ||
        ::inotify_add_watch(kWatches + more, "watched", IN_CREATE) < 0 ||
        !put(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)), kProcess + more) ||
        !put(::memfd_create("memory", 0), kMemory + more) || ::write(kMemory + more, "contents", 8) != 8)
      return false;
    return make_terminal(more) && make_queue(more) && make_sockets(more) && make_pipes(more) && make_rest(more);
  }
  static bool make_terminal(int more) {
    if (!put(::posix_openpt(O_RDWR | O_NOCTTY), kMaster + more)) return false;
    return ::unlockpt(kMaster + more) == 0 && put(::open(::ptsname(kMaster + more), O_RDWR | O_NOCTTY), kSlave + more);
  }
  // Not every kernel has queues.
  static bool make_queue(int more) {
    const std::string name = fmt::format("/relive-{}-{}", ::getpid(), more);
    const mqd_t queue = ::mq_open(name.c_str(), O_RDWR | O_CREAT, 0600, nullptr);
    if (queue < 0) return true;
    return ::mq_unlink(name.c_str()) == 0 && put(queue, kQueue + more);
  }
  static bool make_sockets(int more) {
    constexpr std::array<std::pair<int, int>, 3> kPairs{
        {{SOCK_DGRAM, kGrams}, {SOCK_SEQPACKET, kPackets}, {SOCK_STREAM, kStream}}};
    for (const auto& [type, at] : kPairs) {
      std::array<int, 2> ends{};
      if (::socketpair(AF_UNIX, type, 0, ends.data()) != 0 || !put_two(ends, at + more, at + 1 + more)) return false;
      if (::send(at + 1 + more, "word", 4, 0) != 4 || !send_file(at + more, "file", kMemory + more)) return false;
    }
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::strcpy(name.sun_path, more == 0 ? "listener" : "other");
    if (!put(::socket(AF_UNIX, SOCK_STREAM, 0), kListener + more) ||
        ::bind(kListener + more, reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0 ||
        ::listen(kListener + more, 5) != 0)
      return false;
    sockaddr_in port{};
    port.sin_family = AF_INET;
    port.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return put(::socket(AF_INET, SOCK_STREAM, 0), kPort + more) &&
           ::bind(kPort + more, reinterpret_cast<const sockaddr*>(&port), sizeof port) == 0 &&
           ::listen(kPort + more, 5) == 0;
  }
  static bool make_pipes(int more) {
    std::array<int, 2> ends{};
    const char* const fifo = more == 0 ? "fifo" : "fifo2";
    return ::pipe(ends.data()) == 0 && put_two(ends, kPipeOut + more, kPipeIn + more) &&
           ::write(kPipeIn + more, "unread", 6) == 6 && ::mkfifo(fifo, 0600) == 0 &&
           put(::open(fifo, O_RDWR), kFifo + more) && ::write(kFifo + more, "unread", 6) == 6;
  }
  static bool make_rest(int more) {
    epoll_event event{.events = EPOLLIN, .data = {.u64 = 17}};
    if (!put(::epoll_create1(0), kSet + more)) return false;
    for (const int fd : {kCounter, kPipeOut, kGrams, kFifo, kPort})
      if (::epoll_ctl(kSet + more, EPOLL_CTL_ADD, fd + more, &event) != 0) return false;
    const int old_number = kOldNumber + (more != 0 ? 1 : 0);
    if (!put(::eventfd(3, 0), kMoved + more) || ::dup3(kMoved + more, old_number, O_CLOEXEC) < 0 ||
        ::epoll_ctl(kSet + more, EPOLL_CTL_ADD, old_number, &event) != 0 || ::close(old_number) != 0)
      return false;
    return put(::open("locked", O_RDWR | O_CREAT, 0600), kLocked + more) && lock(kLocked + more, more, F_WRLCK);
  }
  static bool lock(int fd, int first, int type) {
    struct flock range{};
    range.l_type = static_cast<short>(type);
    range.l_whence = SEEK_SET;
    range.l_start = first;
    range.l_len = 5;
    return ::fcntl(fd, F_OFD_SETLK, &range) == 0;
  }

  // The other one of each kind.
  static bool change() {
    sigset_t signals;
    ::sigfillset(&signals);
    const itimerspec off{};
    eventfd_t count = 0;
    std::array<char, 64> rest{};
    termios modes{};
    epoll_event event{.events = EPOLLOUT, .data = {.u64 = 18}};
    ::tcgetattr(kSlave + kMore, &modes);
    modes.c_lflag ^= ECHO;
    for (const int socket : {kGrams, kGramsPeer, kPackets, kPacketsPeer, kStream, kStreamPeer})
      ::recv(socket + kMore, rest.data(), rest.size(), MSG_DONTWAIT);
    if (::fcntl(kQueue + kMore, F_GETFD) >= 0) ::fcntl(kQueue + kMore, F_SETFL, O_RDWR | O_NONBLOCK);
    return ::eventfd_read(kCounter + kMore, &count) == 0 && ::timerfd_settime(kTimer + kMore, 0, &off, nullptr) == 0 &&
           ::signalfd(kSignals + kMore, &signals, 0) >= 0 &&
           ::inotify_add_watch(kWatches + kMore, "/tmp", IN_DELETE_SELF) > 0 &&
           put(static_cast<int>(::syscall(SYS_pidfd_open, ::getppid(), 0)), kProcess + kMore) &&
           ::pwrite(kMemory + kMore, "others", 6, 0) == 6 && ::ftruncate(kMemory + kMore, 9000) == 0 &&
           ::tcsetattr(kSlave + kMore, TCSANOW, &modes) == 0 && ::listen(kListener + kMore, 9) == 0 &&
           ::listen(kPort + kMore, 9) == 0 && ::read(kPipeOut + kMore, rest.data(), 3) == 3 &&
           ::read(kFifo + kMore, rest.data(), 3) == 3 && ::fcntl(kFifo + kMore, F_SETPIPE_SZ, 4096) == 4096 &&
           ::epoll_ctl(kSet + kMore, EPOLL_CTL_MOD, kCounter + kMore, &event) == 0 &&
           ::epoll_ctl(kSet + kMore, EPOLL_CTL_DEL, kPipeOut + kMore, nullptr) == 0 &&
           lock(kLocked + kMore, kMore, F_UNLCK) && put(::eventfd(1, 0), kMaster + kMore + 20);
  }

  std::string scratch_;
  bool wrecked_ = false;
  std::vector<std::string> back_;
  std::vector<std::string> gone_;
};

}  // namespace

int run_kinds_victim(ChildEnd end, const std::string& scratch) {
  Victim victim(scratch);
  end.say(victim.set_up() ? 'y' : 'n');
  for (;;) {
    const char word = end.hear();
    end.say(word == kWreck ? (victim.wreck() ? 'y' : 'n') : victim.judge());
  }
}

}  // namespace relive::testing
