#include "rollback/show.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <variant>

namespace relive::rollback {

namespace {

std::string access_text(const model::Mapping& mapping) {
  std::string out;
  out += mapping.readable ? 'r' : '-';
  out += mapping.writable ? 'w' : '-';
  out += mapping.executable ? 'x' : '-';
  out += mapping.shared ? 's' : 'p';
  return out;
}

std::string_view state_text(model::SocketState state) {
  switch (state) {
    case model::SocketState::fresh:
      return "fresh";
    case model::SocketState::bound:
      return "bound";
    case model::SocketState::listening:
      return "listening";
    case model::SocketState::connected:
      return "connected";
    case model::SocketState::hung_up:
      return "hung up";
  }
  return "?";
}

struct Words {
  std::string kind;
  std::string text;
};

struct Describe {
  Words operator()(const model::RegularFile& file) const {
    std::string text = file.path;
    if (file.deleted && !text.ends_with("(deleted)")) text += " (deleted)";
    if (!file.directory) text += fmt::format(", at {}", file.position);
    return {file.directory ? "directory" : "file", text};
  }
  Words operator()(const model::DeviceFile& file) const { return {file.terminal ? "terminal" : "device", file.path}; }
  Words operator()(const model::PipeEnd& pipe) const {
    std::string text = fmt::format("{} end of pipe {}", pipe.write_end ? "write" : "read", pipe.identity.inode);
    if (pipe.outside) text += ", the other end is outside";
    if (!pipe.bytes.empty()) text += fmt::format(", {} bytes in it", pipe.bytes.size());
    return {"pipe", text};
  }
  Words operator()(const model::EventCounter& counter) const {
    return {"eventfd", fmt::format("count {}", counter.count)};
  }
  Words operator()(const model::EpollSet& set) const {
    return {"epoll", fmt::format("watches {}", set.entries.size())};
  }
  Words operator()(const model::StreamSocket& socket) const {
    std::string text(state_text(socket.state));
    if (const std::string local = address_text(socket.local); !local.empty()) text += " " + local;
    if (const std::string peer = address_text(socket.peer); !peer.empty()) text += " <-> " + peer;
    return {"socket", text};
  }
  Words operator()(const model::UnhandledFile& file) const { return {file.what, "not handled by this release"}; }
};

std::vector<ShownValue> process_values(const model::Process& process) {
  const auto handlers = std::ranges::count_if(process.actions, [](const auto& action) { return action.handler > 1; });
  const auto running =
      std::ranges::count_if(process.interval_timers, [](const auto& timer) { return timer.left_us != 0; });
  const auto open_files = process.limits[RLIMIT_NOFILE];
  return {
      {"executable", process.executable},
      {"cwd", process.cwd.path},
      {"root", process.root.path},
      {"umask", fmt::format("{:04o}", process.umask)},
      {"open files limit", fmt::format("{} of {}", open_files.soft, open_files.hard)},
      {"signal handlers", fmt::format("{}", handlers)},
      {"pending signals", fmt::format("{}", process.pending.size())},
      {"interval timers", fmt::format("{} running", running)},
      {"POSIX timers", fmt::format("{}", process.timers.size())},
  };
}

}  // namespace

std::string address_text(std::span<const std::byte> address) {
  sa_family_t family = 0;
  if (address.size() < sizeof family) return {};
  std::memcpy(&family, address.data(), sizeof family);
  char buffer[INET6_ADDRSTRLEN] = {};
  if (family == AF_INET && address.size() >= sizeof(sockaddr_in)) {
    sockaddr_in in{};
    std::memcpy(&in, address.data(), sizeof in);
    return fmt::format("{}:{}", inet_ntop(AF_INET, &in.sin_addr, buffer, sizeof buffer), ntohs(in.sin_port));
  }
  if (family == AF_INET6 && address.size() >= sizeof(sockaddr_in6)) {
    sockaddr_in6 in{};
    std::memcpy(&in, address.data(), sizeof in);
    return fmt::format("[{}]:{}", inet_ntop(AF_INET6, &in.sin6_addr, buffer, sizeof buffer), ntohs(in.sin6_port));
  }
  if (family != AF_UNIX || address.size() == sizeof family) return {};
  std::string path(reinterpret_cast<const char*>(address.data()) + sizeof family, address.size() - sizeof family);
  if (path.front() == '\0') return "unix @" + path.substr(1);
  path.resize(std::strlen(path.c_str()));
  return "unix " + path;
}

ShowReport show(const SnapshotInfo& info, const model::Task& task) {
  ShowReport report;
  report.info = info;
  for (const auto& thread : task.threads)
    report.threads.push_back({thread.tid, thread.name, thread.registers.rip, thread.registers.rsp, thread.signal_mask,
                              thread.pending.size()});
  for (const auto& mapping : task.memory.mappings)
    report.mappings.push_back({mapping.range, access_text(mapping), mapping.offset, mapping.name});
  for (const auto& descriptor : task.descriptors.descriptors) {
    if (descriptor.open_file >= task.descriptors.open_files.size()) continue;
    Words words = std::visit(Describe{}, task.descriptors.open_files[descriptor.open_file].object);
    report.descriptors.push_back(
        {descriptor.fd.value, std::move(words.kind), std::move(words.text), descriptor.close_on_exec});
  }
  report.process = process_values(task.process);
  return report;
}

}  // namespace relive::rollback
