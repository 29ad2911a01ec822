// A task with one of everything, and images of it: for the tests of image/ and for the fuzzers' seeds.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "image/write.h"
#include "image/xstate.h"

namespace relive::sample {

using Files = std::map<std::string, std::vector<std::byte>>;

inline constexpr std::uint64_t kHeap = 0x55555575c000;
inline constexpr std::uint64_t kShared = 0x7f0000200000;
inline constexpr std::uint64_t kSharedFile = 0x7f0000300000;

inline std::vector<std::byte> bytes(std::string_view text) {
  const auto span = std::as_bytes(std::span(text));
  return {span.begin(), span.end()};
}

inline model::Mapping mapping(std::uint64_t begin, std::uint64_t pages, std::string_view access,
                              model::MappingSource source, std::string name = {}) {
  model::Mapping made;
  made.range = {begin, begin + pages * kPageSize};
  made.readable = access[0] == 'r';
  made.writable = access[1] == 'w';
  made.executable = access[2] == 'x';
  made.shared = access[3] == 's';
  made.source = source;
  made.name = std::move(name);
  made.marks.may_write = made.writable || !made.shared;
  return made;
}

inline model::Thread thread(int tid) {
  model::Thread made;
  made.tid = {tid};
  made.registers.rip = 0x555555555100;
  made.registers.rsp = 0x7ffffffde000;
  made.registers.orig_rax = ~0ULL;
  made.registers.cs = 0x33;
  made.registers.ss = 0x2b;
  made.registers.fs_base = 0x7f0000001740;
  made.xstate.resize(image::XstateLayout::of_this_machine().total);
  for (std::size_t i = 160; i < 416; ++i) made.xstate[i] = static_cast<std::byte>(i);  // SSE registers
  const std::uint64_t states = 3;
  std::memcpy(made.xstate.data() + 512, &states, sizeof states);
  const std::uint64_t known = image::XstateLayout::of_this_machine().known_mask;
  std::memcpy(made.xstate.data() + 464, &known, sizeof known);
  made.signal_mask = 0x10000;
  model::QueuedSignal signal;
  signal.info[0] = std::byte{34};
  made.pending.push_back(signal);
  made.robust_list = {{0x7f0000001a20}, 24};
  made.rseq = {{0x7f0000002000}, 32, 0x53053053, 0};
  made.alternate_stack = {{0x7f0000010000}, 0, 8192};
  made.clear_child_tid = {0x7f0000001a10};
  made.timer_slack_ns = 50000;
  made.name = tid == 100 ? "sample" : "worker";
  made.scheduling.nice = 5;
  made.affinity = {3};
  made.io_priority = 4;
  made.credentials.uids = {1000, 1000, 1000, 1000};
  made.credentials.gids = {1000, 1000, 1000, 1000};
  made.credentials.groups = {10, 20};
  made.credentials.capabilities = {0, 1, 1, 0x1ffffffffff, 0};
  return made;
}

inline model::OpenFile open_file(model::FileObject object, std::uint32_t flags = O_RDWR) {
  model::OpenFile made;
  made.status_flags = flags;
  made.object = std::move(object);
  return made;
}

inline std::vector<model::OpenFile> one_of_each() {
  std::vector<model::OpenFile> files;
  files.push_back(
      open_file(model::DeviceFile{.path = "/dev/null", .identity = {5, 3}, .device_number = 0x103, .position = 0}));
  files.push_back(open_file(
      model::RegularFile{
          .path = "/etc/passwd", .identity = {1, 77}, .directory = false, .deleted = false, .position = 12},
      O_RDONLY));
  files.back().locks.push_back({.kind = model::LockKind::flock, .mode = model::LockMode::read, .file = {1, 77}});
  files.push_back(open_file(
      model::RegularFile{.path = "/tmp", .identity = {1, 5}, .directory = true, .deleted = false, .position = 0},
      O_RDONLY | O_DIRECTORY));
  files.push_back(open_file(model::RegularFile{
      .path = "/tmp/gone (deleted)", .identity = {1, 99}, .directory = false, .deleted = true, .position = 3}));
  files.push_back(open_file(
      model::RegularFile{.path = "/memfd:held (deleted)",
                         .identity = {2, 4},
                         .directory = false,
                         .deleted = true,
                         .position = 1,
                         .memory = model::MemoryFile{.seals = 0, .size = 5000, .resident = 8192, .digest = 42}}));
  files.push_back(open_file(model::PipeEnd{.identity = {9, 1234},
                                           .write_end = false,
                                           .outside = false,
                                           .capacity = 65536,
                                           .bytes = bytes("unread"),
                                           .pieces = {}},
                            O_RDONLY));
  files.push_back(open_file(
      model::PipeEnd{
          .identity = {9, 1234}, .write_end = true, .outside = false, .capacity = 65536, .bytes = {}, .pieces = {}},
      O_WRONLY));
  files.push_back(open_file(model::EventCounter{.id = 3, .count = 7, .semaphore = true, .semaphore_told = true}));
  files.push_back(open_file(
      model::TimerFile{.clock = 1, .settime_flags = 0, .left_ns = 1'500'000'000, .interval_ns = 20, .ticks = 2}));
  files.push_back(open_file(model::SignalFile{.mask = 0x402}));
  files.push_back(open_file(model::InotifySet{
      .watches = {{.number = 1, .file = {0x801, 5}, .mask = 2, .handle_type = 1, .handle = bytes("handle")}},
      .unread = 40,
      .events = {{.number = 1, .mask = IN_CREATE, .name = "a"}, {.number = 5, .mask = IN_IGNORED, .name = {}}}}));
  files.push_back(open_file(model::EpollSet{.entries = {{{5}, 1, 5, false}, {{7}, 4, 9, false}}}));
  const auto unix_pair = [](std::uint64_t inode, std::uint64_t peer) {
    model::Socket made;
    made.inode = inode;
    made.family = AF_UNIX;
    made.type = SOCK_STREAM;
    made.state = model::SocketState::connected;
    made.peer_inode = peer;
    return made;
  };
  model::Socket first = unix_pair(500, 501);
  model::Message message;
  message.bytes = bytes("hello");
  first.unread.push_back(message);
  files.push_back(open_file(first));
  files.push_back(open_file(unix_pair(501, 500)));
  model::Socket listening;
  listening.inode = 502;
  listening.family = AF_INET;
  listening.type = SOCK_STREAM;
  listening.protocol = IPPROTO_TCP;
  listening.state = model::SocketState::listening;
  listening.backlog = 5;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(8080);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const auto raw = std::as_bytes(std::span(&address, 1));
  listening.local = {raw.begin(), raw.end()};
  const int one = 1;
  const auto value = std::as_bytes(std::span(&one, 1));
  listening.options.push_back({SOL_SOCKET, SO_REUSEADDR, {value.begin(), value.end()}});
  files.push_back(open_file(listening));
  model::Socket named;
  named.inode = 503;
  named.family = AF_UNIX;
  named.type = SOCK_DGRAM;
  named.state = model::SocketState::bound;
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::strcpy(name.sun_path, "here.sock");
  const auto told = std::as_bytes(std::span(&name, 1)).first(offsetof(sockaddr_un, sun_path) + sizeof "here.sock");
  named.local = {told.begin(), told.end()};
  named.file = model::SocketFile{.inode = 77,
                                 .path = "/tmp/here.sock",
                                 .directory = "/tmp",
                                 .there = true,
                                 .deleted = false,
                                 .mode = 0750,
                                 .owner = 1000,
                                 .group = 10};
  files.push_back(open_file(named));
  model::Terminal terminal;
  terminal.path = "/dev/pts/3";
  terminal.identity = {24, 6};
  terminal.device = 0x8803;
  terminal.created = 17;
  terminal.modes[0] = std::byte{2};
  terminal.window = {24, 80, 0, 0};
  files.push_back(open_file(terminal));
  files.push_back(
      open_file(model::MessageQueue{.path = "/queue", .identity = {19, 8}, .position = 0, .notifies = false}));
  const auto addressed = [](std::uint64_t inode, int family, int type, int protocol, const auto& local) {
    model::Socket made;
    made.inode = inode;
    made.family = family;
    made.type = type;
    made.protocol = protocol;
    made.state = model::SocketState::bound;
    const auto its = std::as_bytes(std::span(&local, 1));
    made.local = {its.begin(), its.end()};
    return made;
  };
  model::Socket datagrams = addressed(504, AF_INET, SOCK_DGRAM, IPPROTO_UDP, address);
  message.from = datagrams.local;
  datagrams.unread = {message};
  datagrams.memberships.push_back({.level = IPPROTO_IP,
                                   .group = bytes("the group that it has joined"),
                                   .excludes = false,
                                   .sources = {std::vector<std::byte>(sizeof(sockaddr_storage), std::byte{7})}});
  files.push_back(open_file(datagrams));
  sockaddr_nl port{};
  port.nl_family = AF_NETLINK;
  port.nl_pid = 4711;
  model::Socket route = addressed(505, AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE, port);
  const std::uint32_t group = 35;
  const auto number = std::as_bytes(std::span(&group, 1));
  route.memberships.push_back({.level = SOL_NETLINK, .group = {number.begin(), number.end()}});
  files.push_back(open_file(route));
  sockaddr_ll device{};
  device.sll_family = AF_PACKET;
  device.sll_protocol = htons(3);
  device.sll_ifindex = 1;
  files.push_back(open_file(addressed(506, AF_PACKET, SOCK_RAW, 3, device)));
  return files;
}

inline model::Task task(int pid = 100) {
  using Source = model::MappingSource;
  model::Task made;
  made.pid = {pid};
  made.start_time = 4711;
  made.threads = {thread(pid), thread(pid + 1)};
  auto& maps = made.memory.mappings;
  maps.push_back(mapping(0x555555554000, 2, "r-xp", Source::file, "/usr/bin/true"));
  maps.push_back(mapping(0x555555558000, 1, "rw-p", Source::file, "/usr/bin/true"));
  maps.back().offset = 0x3000;
  maps.push_back(mapping(kHeap, 16, "rw-p", Source::anonymous, "[heap]"));
  maps.push_back(mapping(0x7f0000000000, 64, "rw-p", Source::anonymous, "[anon:arena]"));
  maps.back().marks.dont_dump = maps.back().marks.huge_page = maps.back().marks.lock_on_fault = true;
  maps.push_back(mapping(kShared, 4, "rw-s", Source::shared_anonymous, "/dev/zero (deleted)"));
  maps.back().device = 1;
  maps.back().inode = 31;
  maps.push_back(mapping(kSharedFile, 2, "rw-s", Source::file, "/tmp/shared"));
  maps.push_back(mapping(0x7f0000400000, 2, "rw-s", Source::memfd, "/memfd:mapped (deleted)"));
  maps.back().device = 2;
  maps.back().inode = 9;
  maps.push_back(mapping(0x7ffff7fb9000, 4, "r--p", Source::kernel, "[vvar]"));
  maps.push_back(mapping(0x7ffff7fbd000, 1, "r--p", Source::kernel, "[vvar_vclock]"));
  maps.push_back(mapping(0x7ffffffdd000, 33, "rw-p", Source::anonymous, "[stack]"));
  maps.back().marks.grows_down = true;
  made.memory.layout = {0x555555554000, 0x555555556000, 0x555555558000, 0x555555558100, kHeap,         kHeap + 0x10000,
                        0x7ffffffdef00, 0x7ffffffdf000, 0x7ffffffdf010, 0x7ffffffdf010, 0x7ffffffdf100};
  made.memory.locked_bytes = 4096;
  auto& process = made.process;
  process.actions[1] = {0x555555555200, 0x4000000, 0x555555555300, 0x3};
  process.interval_timers[0] = {2'500'000, 1'000'000};
  process.timers.push_back({.id = 2,
                            .clock = 1,
                            .notify = 0,
                            .signal = 34,
                            .value = 8,
                            .target = {},
                            .left_ns = 3,
                            .interval_ns = 5,
                            .overrun = 1});
  for (auto& limit : process.limits) limit = {1024, 4096};
  process.cwd = {"/tmp", 1, 5};
  process.root = {"/", 1, 2};
  process.umask = 022;
  process.dumpable = 1;
  process.oom_score_adj = 100;
  process.executable = "/usr/bin/true";
  process.executable_device = 1;
  process.executable_inode = 700;
  process.parent = 1;
  process.group = pid;
  process.session = pid;
  process.namespaces[2] = 4026531840;
  return made;
}

inline model::DescriptorTable descriptors() {
  model::DescriptorTable made;
  made.open_files = one_of_each();
  for (std::size_t i = 0; i < made.open_files.size(); ++i)
    made.descriptors.push_back({{static_cast<int>(i)}, i % 2 == 1, i});
  made.descriptors.push_back({{40}, false, 1});  // dup of /etc/passwd
  return made;
}

// Pages with the address in each word; contents of files without a name.
class Contents : public image::Contents {
 public:
  Contents() {
    for (const std::uint64_t address :
         {kHeap, kHeap + kPageSize, kHeap + 4 * kPageSize, kShared + kPageSize, kSharedFile})
      addresses_.push_back(address);
    for (const std::uint64_t address : addresses_) pages_.push_back(page(address));
    nameless_ = ::memfd_create("sample", MFD_CLOEXEC);
    if (::ftruncate(nameless_, 5000) != 0 || ::pwrite(nameless_, "held", 4, 4096) != 4) std::abort();
  }
  ~Contents() override { ::close(nameless_); }
  Contents(const Contents&) = delete;
  Contents& operator=(const Contents&) = delete;

  static std::vector<std::byte> page(std::uint64_t address) {
    std::vector<std::byte> made(kPageSize);
    for (std::size_t at = 0; at < kPageSize; at += sizeof address)
      std::memcpy(made.data() + at, &address, sizeof address);
    return made;
  }
  [[nodiscard]] std::vector<Pages> pages(std::size_t) const override {
    std::vector<Pages> found;
    for (std::size_t i = 0; i < pages_.size(); ++i) found.push_back({addresses_[i], pages_[i]});
    return found;
  }
  [[nodiscard]] int open_file(std::size_t, std::size_t) const override { return nameless_; }
  [[nodiscard]] int mapped_file(std::size_t, std::uint64_t) const override { return nameless_; }

 private:
  std::vector<std::uint64_t> addresses_;
  std::vector<std::vector<std::byte>> pages_;
  int nameless_ = -1;
};

// A directory that goes away.
class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "relive-image-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

inline Files load(const std::string& directory) {
  Files files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(in)), {});
    files[entry.path().filename().string()] = bytes(text);
  }
  return files;
}

inline image::ImagedTask imaged(int pid = 100) {
  image::ImagedTask made;
  made.task = task(pid);
  made.descriptors = descriptors();
  made.auxiliary_vector = {33, 0x7ffff7fc1000, 6, 4096};
  return made;
}

// The files of an image of that task.
inline Files make_files() {
  const Scratch scratch;
  std::vector<image::ImagedTask> tasks;
  tasks.push_back(imaged());
  const Contents contents;
  if (const auto written = image::write_image(scratch / "image", std::move(tasks), contents); !written) return {};
  return load(scratch / "image");
}

inline Files files() {
  static const Files made = make_files();
  return made;
}

// Many files as one sequence of bytes, and back: name length, name, size (4 bytes), bytes. What is cut short ends
// there.
inline std::string pack(const Files& files) {
  std::string out;
  for (const auto& [name, contents] : files) {
    out += static_cast<char>(name.size());
    out += name;
    const auto size = static_cast<std::uint32_t>(contents.size());
    out.append(reinterpret_cast<const char*>(&size), sizeof size);
    out.append(reinterpret_cast<const char*>(contents.data()), contents.size());
  }
  return out;
}

inline Files unpack(std::span<const std::byte> in) {
  Files files;
  while (!in.empty()) {
    const auto length = std::to_integer<std::size_t>(in[0]);
    if (in.size() < 1 + length + 4) break;
    const std::string name(reinterpret_cast<const char*>(in.data()) + 1, length);
    std::uint32_t size = 0;
    std::memcpy(&size, in.data() + 1 + length, sizeof size);
    in = in.subspan(1 + length + 4);
    const auto contents = in.first(std::min<std::size_t>(size, in.size()));
    files[name] = {contents.begin(), contents.end()};
    in = in.subspan(contents.size());
  }
  return files;
}

}  // namespace relive::sample
