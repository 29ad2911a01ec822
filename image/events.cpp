// Files that stand for themselves, and epoll sets.
#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "image/files.h"

namespace relive::image::kinds {

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kLongestSeconds = 1ULL << 33;
constexpr int kMinorBits = 20;             // of a device number as the kernel keeps it (linux/kdev_t.h)
constexpr std::size_t kHandleLimit = 128;  // MAX_HANDLE_SZ, name_to_handle_at(2)
constexpr int kHandleWords = 16;           // CRIU always has that many

void begin(const model::OpenFile& open, FileType type, File& file, auto& made) {
  file.set_type(static_cast<std::uint32_t>(type));
  made.set_id(file.id());
  made.set_flags(flags_to(open));
  owner_to(open, *made.mutable_owner());
}

void begin_from(const auto& from, model::OpenFile& open) {
  open.status_flags = from.flags();
  owner_from(from.owner(), open);
}

std::int64_t time_from(std::uint64_t seconds, std::uint64_t nanoseconds, const FileReading& in, std::uint32_t id) {
  if (seconds > kLongestSeconds || nanoseconds >= static_cast<std::uint64_t>(kSecond)) {
    in.damaged(id, fmt::format("a timer of {} s and {} ns", seconds, nanoseconds));
    return 0;
  }
  return static_cast<std::int64_t>(seconds) * kSecond + static_cast<std::int64_t>(nanoseconds);
}

// makedev(3) and the kernel's own numbers.
std::uint64_t kernel_device(std::uint64_t device) {
  const std::uint64_t major = (device >> 8 & 0xfff) | (device >> 32 & ~0xfffULL);
  const std::uint64_t minor = (device & 0xff) | (device >> 12 & ~0xffULL & 0xffffffff);
  return major << kMinorBits | minor;
}
std::uint64_t user_device(std::uint64_t device) {
  const std::uint64_t major = device >> kMinorBits;
  const std::uint64_t minor = device & ((1ULL << kMinorBits) - 1);
  return (major & 0xfff) << 8 | (minor & 0xff) | (minor & ~0xffULL) << 12 | (major & ~0xfffULL) << 32;
}

}  // namespace

void event_counter_to(const model::OpenFile& open, const model::EventCounter& counter, File& file,
                      pb::ExtraFile& extra) {
  pb::EventCounter& made = *file.mutable_event_counter();
  begin(open, FileType::event_counter, file, made);
  made.set_count(counter.count);
  extra.set_object_id(counter.id);
  extra.set_semaphore(counter.semaphore);
  extra.set_semaphore_told(counter.semaphore_told);
}

model::FileObject event_counter_from(const File& file, const pb::ExtraFile* extra, const FileReading&,
                                     model::OpenFile& open) {
  const pb::EventCounter& from = file.event_counter();
  begin_from(from, open);
  model::EventCounter counter;
  counter.count = from.count();
  counter.semaphore_told = extra != nullptr && extra->semaphore_told();
  if (extra != nullptr) {
    counter.id = extra->object_id();
    counter.semaphore = extra->semaphore();
  }
  return counter;
}

void epoll_to(const model::OpenFile& open, const model::EpollSet& set, File& file, pb::ExtraFile& extra) {
  pb::Epoll& made = *file.mutable_epoll();
  begin(open, FileType::epoll, file, made);
  for (std::size_t i = 0; i < set.entries.size(); ++i) {
    const model::EpollEntry& entry = set.entries[i];
    pb::EpollTarget& target = *made.add_targets();
    target.set_id(file.id());
    target.set_fd(static_cast<std::uint32_t>(entry.fd.value));
    target.set_events(entry.events);
    target.set_data(entry.data);
    if (entry.stale) {
      extra.add_stale(static_cast<std::uint32_t>(i));
      extra.add_stale_files(static_cast<std::uint32_t>(entry.file.value_or(0)));
    }
  }
}

model::FileObject epoll_from(const File& file, const pb::ExtraFile* extra, const FileReading& in,
                             model::OpenFile& open) {
  const pb::Epoll& from = file.epoll();
  begin_from(from, open);
  model::EpollSet set;
  for (const pb::EpollTarget& target : from.targets()) {
    if (target.fd() > 0x7fffffff) in.damaged(file.id(), fmt::format("watches descriptor {}", target.fd()));
    set.entries.push_back({{static_cast<int>(target.fd() & 0x7fffffff)}, target.events(), target.data(), false});
  }
  if (extra != nullptr)
    for (int at = 0; at < extra->stale_size(); ++at) {
      const std::uint32_t i = extra->stale(at);
      if (i >= set.entries.size()) continue;
      set.entries[i].stale = true;
      if (at < extra->stale_files_size() && extra->stale_files(at) != 0) set.entries[i].file = extra->stale_files(at);
    }
  std::ranges::stable_sort(set.entries, {}, &model::EpollEntry::fd);
  return set;
}

void timer_to(const model::OpenFile& open, const model::TimerFile& timer, File& file, pb::ExtraFile&) {
  pb::TimerFile& made = *file.mutable_timer_file();
  begin(open, FileType::timer_file, file, made);
  made.set_clock(static_cast<std::uint32_t>(timer.clock));
  made.set_ticks(timer.ticks);
  made.set_settime_flags(timer.settime_flags);
  made.set_left_s(static_cast<std::uint64_t>(timer.left_ns / kSecond));
  made.set_left_ns(static_cast<std::uint64_t>(timer.left_ns % kSecond));
  made.set_interval_s(static_cast<std::uint64_t>(timer.interval_ns / kSecond));
  made.set_interval_ns(static_cast<std::uint64_t>(timer.interval_ns % kSecond));
}

model::FileObject timer_from(const File& file, const pb::ExtraFile*, const FileReading& in, model::OpenFile& open) {
  const pb::TimerFile& from = file.timer_file();
  begin_from(from, open);
  model::TimerFile timer;
  timer.clock = static_cast<std::int32_t>(from.clock());
  timer.settime_flags = from.settime_flags();
  timer.ticks = from.ticks();
  timer.left_ns = time_from(from.left_s(), from.left_ns(), in, file.id());
  timer.interval_ns = time_from(from.interval_s(), from.interval_ns(), in, file.id());
  return timer;
}

void signal_file_to(const model::OpenFile& open, const model::SignalFile& signals, File& file, pb::ExtraFile&) {
  pb::SignalFile& made = *file.mutable_signal_file();
  begin(open, FileType::signal_file, file, made);
  made.set_mask(signals.mask);
}

model::FileObject signal_file_from(const File& file, const pb::ExtraFile*, const FileReading&, model::OpenFile& open) {
  begin_from(file.signal_file(), open);
  return model::SignalFile{.mask = file.signal_file().mask()};
}

void inotify_to(const model::OpenFile& open, const model::InotifySet& set, File& file, pb::ExtraFile& extra) {
  pb::Inotify& made = *file.mutable_inotify();
  begin(open, FileType::inotify, file, made);
  for (const model::InotifyWatch& watch : set.watches) {
    pb::Watch& entry = *made.add_watches();
    entry.set_id(file.id());
    entry.set_inode(watch.file.inode);
    entry.set_mask(watch.mask);
    entry.set_ignored(0);
    entry.set_device(static_cast<std::uint32_t>(kernel_device(watch.file.device)));
    entry.set_number(static_cast<std::uint32_t>(watch.number));
    pb::FileHandle& handle = *entry.mutable_handle();
    handle.set_bytes(static_cast<std::uint32_t>(watch.handle.size()));
    handle.set_type(static_cast<std::uint32_t>(watch.handle_type));
    std::array<std::uint64_t, kHandleWords> words{};
    std::memcpy(words.data(), watch.handle.data(), std::min(watch.handle.size(), sizeof words));
    for (const std::uint64_t word : words) handle.add_words(word);
  }
  if (set.unread != 0) extra.set_unread(set.unread);
  for (const model::InotifyEvent& event : set.events) {
    pb::ExtraEvent& entry = *extra.add_events();
    entry.set_number(event.number);
    entry.set_mask(event.mask);
    entry.set_cookie(event.cookie);
    entry.set_name(event.name);
  }
}

model::FileObject inotify_from(const File& file, const pb::ExtraFile* extra, const FileReading& in,
                               model::OpenFile& open) {
  const pb::Inotify& from = file.inotify();
  begin_from(from, open);
  model::InotifySet set;
  for (const pb::Watch& entry : from.watches()) {
    model::InotifyWatch watch;
    watch.number = static_cast<std::int32_t>(entry.number());
    watch.file = {user_device(entry.device()), entry.inode()};
    watch.mask = entry.mask();
    watch.handle_type = static_cast<std::int32_t>(entry.handle().type());
    const std::size_t bytes = entry.handle().bytes();
    const std::size_t there = static_cast<std::size_t>(entry.handle().words_size()) * sizeof(std::uint64_t);
    if (bytes > kHandleLimit || bytes > there) {
      in.damaged(file.id(), fmt::format("watch {}: a file handle of {} bytes", watch.number, bytes));
      continue;
    }
    watch.handle.resize(bytes);
    std::memcpy(watch.handle.data(), entry.handle().words().data(), bytes);
    set.watches.push_back(std::move(watch));
  }
  std::ranges::stable_sort(set.watches, {}, &model::InotifyWatch::number);
  if (extra == nullptr) return set;
  set.unread = extra->unread();
  for (const pb::ExtraEvent& event : extra->events())
    set.events.push_back(
        {.number = event.number(), .mask = event.mask(), .cookie = event.cookie(), .name = event.name()});
  return set;
}

void process_handle_to(const model::OpenFile& open, const model::ProcessHandle& handle, File& file,
                       pb::ExtraFile& extra) {
  pb::ProcessHandle& made = *file.mutable_process_handle();
  begin(open, FileType::process_handle, file, made);
  made.set_inode(static_cast<std::uint32_t>(handle.identity));
  made.set_pid(handle.pid);
  extra.set_object_id(handle.identity);
  extra.set_own(handle.own);
  extra.set_kind(handle.thread ? 1 : 0);
}

model::FileObject process_handle_from(const File& file, const pb::ExtraFile* extra, const FileReading&,
                                      model::OpenFile& open) {
  const pb::ProcessHandle& from = file.process_handle();
  begin_from(from, open);
  model::ProcessHandle handle;
  handle.pid = from.pid();
  if (extra != nullptr) {
    handle.identity = extra->object_id();
    handle.own = extra->own();
    handle.thread = extra->kind() == 1;
  }
  return handle;
}

}  // namespace relive::image::kinds
