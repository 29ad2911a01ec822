#include "image/consistency.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "image/files.h"

namespace relive::image {

namespace {

constexpr std::uint64_t kUserEnd = std::uint64_t{1} << 47;
constexpr std::uint32_t kHighestPid = 1 << 22;  // PID_MAX_LIMIT, proc(5)
constexpr std::uint64_t kUserCode = 0x33;       // selectors of 64-bit programs (asm/segment.h)
constexpr std::uint64_t kUserStack = 0x2b;

// Does the pages' range lie in mappings that are the task's own?
void check_pages(const ImagedTask& task, Findings& findings) {
  const auto& mappings = task.task.memory.mappings;
  const std::string file = file_name(FileKind::pagemap, static_cast<std::uint64_t>(task.task.pid.value));
  auto at = mappings.begin();
  for (const PageRun& run : task.pages) {
    std::uint64_t position = run.address;
    while (position < run.range().end) {
      while (at != mappings.end() && at->range.end <= position) ++at;
      if (at == mappings.end() || at->range.begin > position) {
        const std::uint64_t end = at == mappings.end() ? run.range().end : std::min(run.range().end, at->range.begin);
        findings.damaged(
            file, std::nullopt,
            fmt::format("{} pages from {:x} on are in no mapping", (end - position) / kPageSize, position));
        position = end;
        continue;
      }
      position = std::min(run.range().end, at->range.end);
    }
  }
}

void check_registers(const model::Thread& thread, Findings& findings) {
  const std::string file = file_name(FileKind::core, static_cast<std::uint64_t>(thread.tid.value));
  const auto user = [&](std::uint64_t address, const char* what) {
    if (address >= kUserEnd) findings.damaged(file, 0, fmt::format("{} {:#x} is the kernel's", what, address));
  };
  const user_regs_struct& registers = thread.registers;
  user(registers.rip, "instruction pointer");
  user(registers.fs_base, "fs base");
  user(registers.gs_base, "gs base");
  user(thread.robust_list.head.value, "robust list");
  user(thread.rseq.area.value, "rseq area");
  user(thread.clear_child_tid.value, "clear_child_tid");
  user(thread.alternate_stack.base.value, "alternate stack");
  if (registers.cs != kUserCode || registers.ss != kUserStack)
    findings.damaged(
        file, 0, fmt::format("segments {:#x} and {:#x} are not those of a 64-bit program", registers.cs, registers.ss));
}

}  // namespace

void check_tree(const Parts& parts, Findings& findings) {
  const std::string file = file_name(FileKind::pstree);
  if (parts.tree.empty()) return findings.damaged(file, std::nullopt, "has no task");
  std::set<std::uint32_t> pids;
  std::set<std::uint32_t> threads;
  for (std::size_t i = 0; i < parts.tree.size(); ++i) {
    const pb::TreeEntry& entry = parts.tree[i];
    if (entry.pid() == 0 || entry.pid() > kHighestPid) findings.damaged(file, i, fmt::format("pid {}", entry.pid()));
    // Parents come first: so nobody is his own ancestor.
    if (entry.parent() != 0 && !pids.contains(entry.parent()))
      findings.damaged(
          file, i, fmt::format("the parent of {} is {}, which does not stand before it", entry.pid(), entry.parent()));
    if (entry.parent() == 0 && i != 0) findings.unsupported(file, i, fmt::format("{} is a second root", entry.pid()));
    if (!pids.insert(entry.pid()).second) findings.damaged(file, i, fmt::format("pid {} is there twice", entry.pid()));
    bool leader = false;
    for (const std::uint32_t tid : entry.threads()) {
      leader = leader || tid == entry.pid();
      if (tid == 0 || tid > kHighestPid) findings.damaged(file, i, fmt::format("thread {}", tid));
      if (!threads.insert(tid).second) findings.damaged(file, i, fmt::format("thread {} is there twice", tid));
    }
    if (!leader && entry.threads_size() != 0)
      findings.damaged(file, i, fmt::format("{} is not among its own threads", entry.pid()));
  }
}

void check_references(const Parts& parts, Findings& findings) {
  const auto lacks = [&](std::uint32_t id) { return !parts.files.contains(id); };
  std::size_t number = 0;
  for (const pb::Remap& remap : parts.remaps) {
    const std::string file = file_name(FileKind::remaps);
    if (lacks(remap.file()))
      findings.damaged(file, number, fmt::format("file {} is not in {}", remap.file(), file_name(FileKind::files)));
    if (remap.type() == 0 && remap.has_type() && lacks(remap.remap()))
      findings.damaged(file, number,
                       fmt::format("link to file {}, which is not in {}", remap.remap(), file_name(FileKind::files)));
    if (remap.type() > 1) findings.unsupported(file, number, "is of a process that has ended");
    ++number;
  }
  for (const auto& [id, messages] : parts.queues) {
    const auto at = parts.files.find(id);
    if (at == parts.files.end() ||
        (!at->second.has_unix_socket() && !at->second.has_inet() && !at->second.has_netlink_socket()))
      findings.damaged(file_name(FileKind::socket_queues), std::nullopt,
                       fmt::format("{} messages wait at file {}, which is no socket", messages.size(), id));
  }
  std::set<std::uint32_t> inodes;
  std::set<std::uint32_t> pipes;
  for (const auto& [id, file] : parts.files) {
    if (file.has_unix_socket() && !inodes.insert(file.unix_socket().inode()).second)
      findings.damaged(file_name(FileKind::files), std::nullopt,
                       fmt::format("file {}: socket {} is there twice", id, file.unix_socket().inode()));
    if (file.has_pipe()) pipes.insert(file.pipe().pipe());
    if (file.has_fifo()) pipes.insert(file.fifo().pipe());
  }
  for (const auto& [id, file] : parts.files)
    if (file.has_unix_socket() && file.unix_socket().peer() != 0 && !inodes.contains(file.unix_socket().peer()))
      findings.damaged(file_name(FileKind::files), std::nullopt,
                       fmt::format("file {}: the socket's peer {} is not there", id, file.unix_socket().peer()));
  for (const auto& [pipe, contents] : parts.pipes)
    if (!pipes.contains(pipe))
      findings.damaged(file_name(FileKind::pipes_data), std::nullopt,
                       fmt::format("{} bytes are in pipe {}, of which there is no end", contents.bytes.size(), pipe));
  std::set<std::int32_t> pids;
  for (const pb::TreeEntry& entry : parts.tree) pids.insert(static_cast<std::int32_t>(entry.pid()));
  for (std::size_t i = 0; i < parts.locks.size(); ++i)
    if (!pids.contains(parts.locks[i].pid()))
      findings.damaged(file_name(FileKind::locks), i,
                       fmt::format("is of task {}, which is not there", parts.locks[i].pid()));
}

void check_task(const ImagedTask& task, const std::set<std::uint32_t>& seen, Findings& findings) {
  if (task.state == TaskState::dead || task.state == TaskState::zombie) return;
  for (const model::Thread& thread : task.task.threads) check_registers(thread, findings);
  check_pages(task, findings);
  std::set<int> open;
  for (const model::Descriptor& descriptor : task.descriptors.descriptors) open.insert(descriptor.fd.value);
  for (std::size_t i = 0; i < task.descriptors.open_files.size(); ++i) {
    const auto* set = std::get_if<model::EpollSet>(&task.descriptors.open_files[i].object);
    if (set == nullptr || seen.contains(task.file_ids[i])) continue;
    for (const model::EpollEntry& entry : set->entries)
      if (!entry.stale && !open.contains(entry.fd.value))
        findings.unsupported(
            file_name(FileKind::files), std::nullopt,
            fmt::format("file {} watches descriptor {}, which is not open", task.file_ids[i], entry.fd.value));
  }
}

}  // namespace relive::image
