#include "capture/event_queue.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include "base/unique_fd.h"

namespace relive::capture {

namespace {

using model::InotifyEvent;
using model::InotifyWatch;

// INOTIFY_IOC_SETNEXTWD of linux/inotify.h (Linux 4.16, with CONFIG_CHECKPOINT_RESTORE): the number that the next watch
// gets.
constexpr unsigned long kSetNextNumber = _IOW('I', 0, std::int32_t);
constexpr std::size_t kNameless = sizeof(inotify_event);  // bytes of an event without a name
constexpr std::size_t kStride = 1024;                     // events between two looks at the queue's length
constexpr std::size_t kLongest = std::size_t{1} << 20;    // queue that is filled
constexpr std::uint32_t kNothing = IN_MOVE_SELF;          // what never happens by accident
constexpr int kMostTries = 5;

std::string path_of(int fd) { return fmt::format("/proc/self/fd/{}", fd); }

// A directory that nobody else sees: of a file system of its own where that is allowed, so that nobody hears of it.
class Scratch {
 public:
  static Result<Scratch> make() {
    Scratch scratch;
    const UniqueFd system(static_cast<int>(::syscall(SYS_fsopen, "tmpfs", 1 /* FSOPEN_CLOEXEC */)));
    if (system && ::syscall(SYS_fsconfig, system.get(), 6 /* FSCONFIG_CMD_CREATE */, nullptr, nullptr, 0) == 0)
      scratch.root_ = UniqueFd(static_cast<int>(::syscall(SYS_fsmount, system.get(), 1 /* FSMOUNT_CLOEXEC */, 0)));
    if (scratch.root_) return scratch;
    std::error_code error;
    std::string name = (std::filesystem::temp_directory_path(error) / "relive-XXXXXX").string();
    if (error || ::mkdtemp(name.data()) == nullptr) return fail_errno("mkdtemp", name);
    scratch.path_ = name;
    scratch.root_ = UniqueFd(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!scratch.root_) return fail_errno("open", name);
    return scratch;
  }
  Scratch(Scratch&&) = default;
  Scratch& operator=(Scratch&&) = delete;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code unused;
    if (!path_.empty() && root_) std::filesystem::remove_all(path_, unused);
  }
  [[nodiscard]] int root() const { return root_.get(); }
  [[nodiscard]] std::string path(const std::string& name) const { return path_of(root()) + "/" + name; }

 private:
  Scratch() = default;
  UniqueFd root_;
  std::string path_;  // to be removed
};

Result<std::size_t> unread(int instance) {
  int bytes = 0;
  if (::ioctl(instance, FIONREAD, &bytes) != 0) return fail_errno("ioctl FIONREAD", "an inotify instance");
  return static_cast<std::size_t>(bytes);
}

// Reads at most so many bytes, whole events.
Result<std::vector<InotifyEvent>> take_events(int instance, std::size_t bytes) {
  std::vector<InotifyEvent> events;
  alignas(inotify_event) std::array<char, 65536> room{};
  while (bytes > 0) {
    const ssize_t got = ::read(instance, room.data(), std::min(bytes, room.size()));
    if (got <= 0) return fail_errno("read", "an inotify instance");
    bytes -= static_cast<std::size_t>(got);
    for (std::size_t at = 0; at + kNameless <= static_cast<std::size_t>(got);) {
      inotify_event event{};
      std::memcpy(&event, room.data() + at, kNameless);
      const char* const name = room.data() + at + kNameless;
      events.push_back({.number = event.wd,
                        .mask = event.mask,
                        .cookie = event.cookie,
                        .name = std::string(name, ::strnlen(name, event.len))});
      at += kNameless + event.len;
    }
  }
  return events;
}
// The same, of events that nobody wants to know.
Result<void> skip_events(int instance, std::size_t bytes) {
  std::array<char, 65536> room{};
  while (bytes > 0) {
    const ssize_t got = ::read(instance, room.data(), std::min(bytes, room.size()));
    if (got <= 0) return fail_errno("read", "an inotify instance");
    bytes -= static_cast<std::size_t>(got);
  }
  return {};
}
Result<std::vector<InotifyEvent>> take_all_events(int instance) {
  std::vector<InotifyEvent> all;
  while (const std::size_t bytes = RELIVE_TRY(unread(instance))) {
    auto some = RELIVE_TRY(take_events(instance, bytes));
    std::ranges::move(some, std::back_inserter(all));
  }
  return all;
}

// Numbers are given in ascending order, so that one may be reached by asking again and again.
Result<void> add_watch(int instance, std::int32_t number, const std::string& path, std::uint32_t mask) {
  constexpr int kMostNumbers = 1 << 16;
  static_cast<void>(::ioctl(instance, kSetNextNumber, number));
  for (int tries = 0; tries < kMostNumbers; ++tries) {
    const int given = ::inotify_add_watch(instance, path.c_str(), mask);
    if (given < 0) return fail_errno("inotify_add_watch", fmt::format("watch {}", number));
    if (given == number) return {};
    if (given > number) break;
    if (::inotify_rm_watch(instance, given) != 0) return fail_errno("inotify_rm_watch", fmt::format("watch {}", given));
  }
  return fail(ErrorKind::refused, fmt::format("this kernel does not give a watch the number {} again", number),
              "INOTIFY_IOC_SETNEXTWD needs CONFIG_CHECKPOINT_RESTORE");
}

// Two files that are read in turn: so that no event equals the one before it, which the kernel would merge.
class Filler {
 public:
  // The numbers from `number` on are free.
  static Result<Filler> make(int instance, const Scratch& scratch, std::int32_t number) {
    Filler filler(instance);
    for (std::size_t which = 0; which < 2; ++which) {
      const std::string name = fmt::format("filler{}", which);
      filler.files_[which] = UniqueFd(::openat(scratch.root(), name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
      if (!filler.files_[which] || ::write(filler.files_[which].get(), "x", 1) != 1)
        return fail_errno("write", "a file of relive's own");
      filler.numbers_[which] = number + static_cast<std::int32_t>(which);
      RELIVE_TRY(add_watch(instance, filler.numbers_[which], scratch.path(name), IN_ACCESS));
    }
    return filler;
  }
  Result<void> add(std::size_t events) {
    for (char byte = 0; events > 0; --events) {
      if (::pread(files_[next_].get(), &byte, 1, 0) != 1) return fail_errno("pread", "a file of relive's own");
      next_ = 1 - next_;
    }
    return {};
  }
  // Until nothing more is taken: how many the queue takes, IN_Q_OVERFLOW behind them not counted.
  Result<std::size_t> fill() {
    for (std::size_t before = RELIVE_TRY(unread(instance_)); before < kLongest * kNameless;) {
      RELIVE_TRY(add(kStride));
      const std::size_t now = RELIVE_TRY(unread(instance_));
      if (now < before + kStride * kNameless) return now / kNameless - 1;
      before = now;
    }
    return fail(ErrorKind::refused, "the queue of an inotify instance is too long to be filled",
                "lower fs.inotify.max_queued_events");
  }
  void remove() {
    for (const std::int32_t number : numbers_) static_cast<void>(::inotify_rm_watch(instance_, number));
  }

 private:
  explicit Filler(int instance) : instance_(instance) {}
  int instance_;
  std::array<UniqueFd, 2> files_;
  std::array<std::int32_t, 2> numbers_{};
  std::size_t next_ = 0;
};

// Watches with the numbers of the events, upon files of relive's own.
class Stage {
 public:
  Stage(int instance, const Scratch& scratch, std::span<const InotifyEvent> events)
      : instance_(instance), scratch_(scratch) {
    for (const InotifyEvent& event : events)
      if (event.number >= 0) directories_[event.number] |= !event.name.empty() || (event.mask & IN_ISDIR) != 0;
  }
  Result<void> build() {
    for (const auto& [number, directory] : directories_) RELIVE_TRY(make(own(number), directory));
    return {};
  }
  Result<void> watch() {
    for (const auto& [number, directory] : directories_)
      RELIVE_TRY(add_watch(instance_, number, scratch_.path(own(number)), kNothing));
    return {};
  }
  // Causes the first of these events; how many of them that were.
  Result<std::size_t> cause(std::span<const InotifyEvent> events) {
    const InotifyEvent& event = events.front();
    const std::uint32_t kind = event.mask & ~std::uint32_t{IN_ISDIR};
    const bool directory = (event.mask & IN_ISDIR) != 0;
    const std::string file = event.name.empty() ? own(event.number) : own(event.number) + "/" + event.name;
    if (kind == IN_IGNORED) {
      gone_.insert(event.number);
      if (::inotify_rm_watch(instance_, event.number) != 0) return fail_errno("inotify_rm_watch", file);
      return 1;
    }
    if (kind == IN_DELETE_SELF) {  // the end of the watch comes with it
      gone_.insert(event.number);
      RELIVE_TRY(listen(event.number, kind));
      RELIVE_TRY(remove(file));
      return 2;
    }
    const InotifyEvent* const other = kind == IN_MOVED_FROM && events.size() > 1 && events[1].cookie == event.cookie &&
                                              (events[1].mask & IN_MOVED_TO) != 0
                                          ? &events[1]
                                          : nullptr;
    if (other != nullptr) {
      const std::string to = own(other->number) + "/" + other->name;
      RELIVE_TRY(remove(to));
      RELIVE_TRY(make(file, directory));
      const bool same = event.number == other->number;
      RELIVE_TRY(listen(event.number, same ? IN_MOVED_FROM | IN_MOVED_TO : IN_MOVED_FROM));
      if (!same) RELIVE_TRY(listen(other->number, IN_MOVED_TO));
      RELIVE_TRY(move(file, to));
      RELIVE_TRY(listen(event.number, kNothing));
      RELIVE_TRY(listen(other->number, kNothing));
      return 2;
    }
    RELIVE_TRY(do_to(file, kind, directory, event.number));
    RELIVE_TRY(listen(event.number, kNothing));
    return 1;
  }
  void unwatch() {
    for (const auto& [number, directory] : directories_)
      if (!gone_.contains(number)) static_cast<void>(::inotify_rm_watch(instance_, number));
  }

 private:
  static std::string own(std::int32_t number) { return fmt::format("watch{}", number); }
  [[nodiscard]] int root() const { return scratch_.root(); }

  // Another mask for a watch that there is: nothing is queued.
  Result<void> listen(std::int32_t number, std::uint32_t mask) {
    if (::inotify_add_watch(instance_, scratch_.path(own(number)).c_str(), mask) != number)
      return fail_errno("inotify_add_watch", own(number));
    return {};
  }
  Result<void> make(const std::string& file, bool directory) {
    struct stat status{};
    if (::fstatat(root(), file.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0) {
      if (S_ISDIR(status.st_mode) == directory) return {};
      RELIVE_TRY(remove(file));
    }
    if (directory) {
      if (::mkdirat(root(), file.c_str(), 0700) != 0) return fail_errno("mkdir", file);
      return {};
    }
    const UniqueFd made(::openat(root(), file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!made || ::write(made.get(), "x", 1) != 1) return fail_errno("open", file);
    return {};
  }
  // A directory with what is in it.
  Result<void> remove(const std::string& file) {
    std::error_code error;
    std::filesystem::remove_all(scratch_.path(file), error);
    if (error) return fail(ErrorKind::system, fmt::format("removing {}: {}", file, error.message()));
    return {};
  }
  Result<void> move(const std::string& from, const std::string& to) {
    if (::renameat(root(), from.c_str(), root(), to.c_str()) != 0) return fail_errno("rename", from);
    return {};
  }
  Result<UniqueFd> open(const std::string& file, int flags) {
    UniqueFd opened(::openat(root(), file.c_str(), flags | O_CLOEXEC));
    if (!opened) return fail_errno("open", file);
    return opened;
  }

  Result<void> do_to(const std::string& file, std::uint32_t kind, bool directory, std::int32_t number) {
    if (kind == IN_CREATE) {
      RELIVE_TRY(remove(file));
      RELIVE_TRY(listen(number, kind));
      return make(file, directory);
    }
    if (kind == IN_MOVED_TO) {
      RELIVE_TRY(remove(file));
      RELIVE_TRY(make("away", directory));
      RELIVE_TRY(listen(number, kind));
      return move("away", file);
    }
    // Of the watched file itself where there is no name; then it is one already, whatever the event calls it.
    const bool itself = file == own(number);
    if (itself) directory = directories_.at(number);
    if (!itself) RELIVE_TRY(make(file, directory));
    if (kind == IN_DELETE || kind == IN_MOVED_FROM || kind == IN_MOVE_SELF) {
      if (kind != IN_DELETE) RELIVE_TRY(remove("away"));
      RELIVE_TRY(listen(number, kind));
      if (kind == IN_DELETE) return remove(file);
      RELIVE_TRY(move(file, "away"));
      return kind == IN_MOVE_SELF ? move_back(file, number) : Result<void>{};
    }
    if (kind == IN_ATTRIB) {
      RELIVE_TRY(listen(number, kind));
      if (::fchmodat(root(), file.c_str(), 0700, 0) != 0) return fail_errno("chmod", file);
      return {};
    }
    const bool writes = kind == IN_MODIFY || kind == IN_CLOSE_WRITE;
    if (kind == IN_OPEN) RELIVE_TRY(listen(number, kind));
    UniqueFd opened = RELIVE_TRY(open(file, writes ? O_WRONLY : O_RDONLY));
    RELIVE_TRY(listen(number, kind == IN_OPEN ? kNothing : kind));
    std::array<char, 1024> room{};
    if (kind == IN_MODIFY && ::write(opened.get(), "x", 1) != 1) return fail_errno("write", file);
    if (kind == IN_ACCESS && (directory ? ::syscall(SYS_getdents64, opened.get(), room.data(), room.size())
                                        : ::read(opened.get(), room.data(), 1)) < 0)
      return fail_errno("read", file);
    if (kind == IN_MODIFY || kind == IN_ACCESS) RELIVE_TRY(listen(number, kNothing));
    opened = UniqueFd();
    return {};
  }
  Result<void> move_back(const std::string& file, std::int32_t number) {
    if (::inotify_add_watch(instance_, scratch_.path("away").c_str(), IN_ATTRIB) != number)
      return fail_errno("inotify_add_watch", file);
    return move("away", file);
  }

  int instance_;
  const Scratch& scratch_;
  std::map<std::int32_t, bool> directories_;  // by number: is it one?
  std::set<std::int32_t> gone_;
};

struct Order {
  std::span<const InotifyEvent> events;
  std::span<const InotifyWatch> watches = {};  // those that the instance has when it is done
  std::span<const int> files = {};             // theirs
  std::set<std::int32_t> away = {};            // numbers of watches that it has now, and that have to give way
  std::int32_t free = 1;                       // this number and the next are nobody's
};

Result<void> fill_and_cause(int instance, const Order& order, Stage& stage, Filler& filler) {
  const bool overflown = !order.events.empty() && order.events.back().mask == IN_Q_OVERFLOW;
  const auto events = overflown ? order.events.first(order.events.size() - 1) : order.events;
  const std::size_t room = RELIVE_TRY(filler.fill());
  // With the overflow standing in front nothing more comes behind; without it, it comes itself, as it is to.
  RELIVE_TRY(skip_events(instance, (room + (overflown ? 1 : 0)) * kNameless));
  const std::size_t used = events.size() + order.away.size() + (overflown ? 0 : 1);
  if (used > room) return fail(ErrorKind::refused, "the queue of an inotify instance is too short for its events");
  RELIVE_TRY(filler.add(room - used));
  for (const std::int32_t number : order.away)
    if (::inotify_rm_watch(instance, number) != 0 && errno != EINVAL) return fail_errno("inotify_rm_watch", "a watch");
  RELIVE_TRY(stage.watch());
  for (std::span<const InotifyEvent> rest = events; !rest.empty();) rest = rest.subspan(RELIVE_TRY(stage.cause(rest)));
  const std::size_t full = RELIVE_TRY(unread(instance));
  stage.unwatch();
  filler.remove();
  for (std::size_t at = 0; at < order.watches.size(); ++at)
    RELIVE_TRY(add_watch(instance, order.watches[at].number, path_of(order.files[at]), order.watches[at].mask));
  const std::size_t before = (room - events.size()) * kNameless;
  RELIVE_TRY(skip_events(instance, before));
  if (RELIVE_TRY(unread(instance)) < full - before)
    return fail(ErrorKind::system, "the queue of an inotify instance does not fill as it should");
  return {};
}

// REQUIRES: nothing is queued. After an error nothing of relive's watches, but what is queued may be of its making.
Result<void> queue(int instance, const Scratch& scratch, const Order& order) {
  Stage stage(instance, scratch, order.events);
  RELIVE_TRY(stage.build());
  Filler filler = RELIVE_TRY(Filler::make(instance, scratch, order.free));
  auto done = fill_and_cause(instance, order, stage, filler);
  if (!done) {
    stage.unwatch();
    filler.remove();
  }
  return done;
}

std::int32_t free_number(std::span<const InotifyEvent> events, std::span<const InotifyWatch> watches) {
  std::int32_t highest = 0;
  for (const InotifyEvent& event : events) highest = std::max(highest, event.number);
  for (const InotifyWatch& watch : watches) highest = std::max(highest, watch.number);
  return highest + 1;
}

// Of the queues of instances made from now on; that of an older one is hardly longer.
Result<void> check_length() {
  std::ifstream file("/proc/sys/fs/inotify/max_queued_events");
  std::size_t length = 0;
  if (!(file >> length) || length < kLongest) return {};
  return fail(ErrorKind::refused, "an inotify instance has unread events, and its queue is too long to be filled",
              "lower fs.inotify.max_queued_events");
}

Result<std::vector<InotifyEvent>> take_and_queue(const Scratch& scratch, int instance, int witness,
                                                 const std::map<int, std::int32_t>& numbers,
                                                 std::span<const InotifyWatch> watches,
                                                 std::span<const UniqueFd> files) {
  std::vector<InotifyEvent> events = RELIVE_TRY(take_all_events(instance));
  for (int tries = 1;; ++tries) {
    const std::string why_not = model::why_not_queued_again(events, watches);
    std::vector<InotifyEvent> again = why_not.empty() ? events : model::queued_again(events, watches);
    if (!why_not.empty() || tries == kMostTries) again.push_back({.number = -1, .mask = IN_Q_OVERFLOW, .name = {}});
    Order order{.events = again, .free = free_number(again, watches)};
    std::vector<InotifyWatch> back;
    std::vector<int> back_files;
    for (std::size_t at = 0; at < watches.size(); ++at) {
      const auto is_its = [&](const InotifyEvent& event) { return event.number == watches[at].number; };
      if (std::ranges::none_of(again, is_its)) continue;
      order.away.insert(watches[at].number);
      if (std::ranges::any_of(again, [&](const auto& e) { return is_its(e) && e.mask == IN_IGNORED; })) continue;
      back.push_back(watches[at]);
      back_files.push_back(files[at].get());
    }
    order.watches = back;
    order.files = back_files;
    const Result<void> done = queue(instance, scratch, order);
    const auto seen = RELIVE_TRY(take_all_events(witness));
    if (done && (seen.empty() || tries == kMostTries)) {
      if (why_not.empty()) return again;
      return fail(ErrorKind::refused, "an event that nobody has read cannot be put back: " + why_not,
                  "the program is told that events were lost (IN_Q_OVERFLOW)");
    }
    if (tries == kMostTries) {
      RELIVE_TRY(take_all_events(instance));
      for (std::size_t at = 0; at < back.size(); ++at)
        static_cast<void>(add_watch(instance, back[at].number, path_of(back_files[at]), back[at].mask));
      return std::unexpected(
          with_context(done, fmt::format("putting {} unread events back: they are lost", events.size())).error());
    }
    // Something was done to the files: in the instance itself it may be missing.
    RELIVE_TRY(take_all_events(instance));
    for (InotifyEvent event : seen) {
      if (const auto number = numbers.find(event.number); number != numbers.end()) event.number = number->second;
      events.push_back(std::move(event));
    }
  }
}

}  // namespace

Result<void> queue_events(int instance, std::span<const InotifyEvent> events, std::span<const InotifyWatch> watches,
                          std::span<const int> files) {
  if (!events.empty()) {
    const Scratch scratch = RELIVE_TRY(Scratch::make());
    return queue(instance, scratch,
                 {.events = events, .watches = watches, .files = files, .free = free_number(events, watches)});
  }
  for (std::size_t at = 0; at < watches.size(); ++at)
    RELIVE_TRY(add_watch(instance, watches[at].number, path_of(files[at]), watches[at].mask));
  RELIVE_TRY(take_all_events(instance));
  return {};
}

Result<std::vector<InotifyEvent>> look_into_queue(const Watcher& watcher, int instance,
                                                  std::span<const InotifyWatch> watches) {
  RELIVE_TRY(check_length());
  const Scratch scratch = RELIVE_TRY(Scratch::make());
  const UniqueFd witness(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!witness) return fail_errno("inotify_init1", "an instance of relive's own");
  std::vector<UniqueFd> files;
  std::map<int, std::int32_t> numbers;
  for (const InotifyWatch& watch : watches) {
    files.push_back(RELIVE_TRY(open_watched(watcher, watch)));
    const int given = ::inotify_add_watch(witness.get(), path_of(files.back().get()).c_str(), watch.mask);
    if (given < 0) return fail_errno("inotify_add_watch", fmt::format("watch {}", watch.number));
    numbers.emplace(given, watch.number);
  }
  return take_and_queue(scratch, instance, witness.get(), numbers, watches, files);
}

}  // namespace relive::capture
