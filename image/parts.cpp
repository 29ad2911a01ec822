#include "image/parts.h"

#include <fmt/format.h>

#include <optional>
#include <set>
#include <utility>

namespace relive::image {

namespace {

struct Reading {
  const ImageSource& source;
  Findings& findings;
  Budget& budget;
  Parts parts = {};

  [[nodiscard]] EntryReader reader(FileKind kind, std::uint64_t number = 0) const {
    return {source, kind, number, findings, budget};
  }

  // A file of one entry. False: there is none, a finding if it `must` be there.
  template <class Message>
  bool single(FileKind kind, std::uint64_t number, Message& message, bool must) const {
    EntryReader in = reader(kind, number);
    if (!in.present()) {
      if (must) findings.damaged(in.name(), std::nullopt, "is missing");
      return false;
    }
    const std::uint64_t before = findings.count();
    if (!in.next(message)) {
      if (findings.count() == before) findings.damaged(in.name(), std::nullopt, "has no entry");
      return false;
    }
    Message more;
    if (in.next(more)) in.damaged("is one more than there may be");
    return true;
  }

  template <class Message, class Key>
  void by_id(FileKind kind, std::map<Key, Message>& into, auto id_of) const {
    EntryReader in = reader(kind);
    Message message;
    while (in.next(message)) {
      const auto id = id_of(message);
      if (!into.emplace(id, std::move(message)).second) in.damaged(fmt::format("id {} is there twice", id));
    }
  }

  void tree() {
    EntryReader in = reader(FileKind::pstree);
    if (!in.present()) findings.damaged(in.name(), std::nullopt, "is missing");
    pb::TreeEntry entry;
    while (in.next(entry)) parts.tree.push_back(std::move(entry));
  }

  void table(std::uint32_t id) {
    if (parts.tables.contains(id)) return;
    auto& table = parts.tables[id];
    EntryReader in = reader(FileKind::fdinfo, id);
    pb::Descriptor descriptor;
    while (in.next(descriptor)) table.push_back(descriptor);
  }

  void task(const pb::TreeEntry& entry) {
    const std::uint32_t pid = entry.pid();
    if (parts.cores.contains(pid)) return;  // said elsewhere
    pb::Core leader;
    const bool alive = single(FileKind::core, pid, leader, true) && leader.has_task() &&
                       (leader.task().state() == 1 || leader.task().state() == 3);
    parts.cores.emplace(pid, std::move(leader));
    pb::ExtraTask extra;
    if (single(FileKind::extra, pid, extra, false)) parts.extras.emplace(pid, std::move(extra));
    if (!alive) return;
    for (const std::uint32_t tid : entry.threads()) {
      pb::Core core;
      if (!parts.cores.contains(tid) && single(FileKind::core, tid, core, true))
        parts.cores.emplace(tid, std::move(core));
    }
    pb::ObjectIds ids;
    if (single(FileKind::ids, pid, ids, false)) parts.ids.emplace(pid, ids);
    pb::Memory memory;
    if (single(FileKind::mm, pid, memory, true)) parts.memories.emplace(pid, std::move(memory));
    pb::Fs fs;
    if (single(FileKind::fs, pid, fs, true)) parts.fs.emplace(pid, fs);
    // Before there were ids, a table was its task's.
    table(parts.ids.contains(pid) && parts.inventory.fdinfo_per_id() ? parts.ids[pid].files() : pid);
  }

  void pipes() {
    EntryReader in = reader(FileKind::pipes_data);
    pb::PipeData entry;
    while (in.next(entry)) {
      auto bytes = in.data(entry.bytes());
      if (!bytes) return;
      if (!parts.pipes.emplace(entry.pipe(), PipeContents{entry.capacity(), std::move(*bytes)}).second)
        in.damaged(fmt::format("pipe {} is there twice", entry.pipe()));
    }
  }

  void queues() {
    EntryReader in = reader(FileKind::socket_queues);
    pb::QueuedMessage entry;
    while (in.next(entry)) {
      auto bytes = in.data(entry.length());
      if (!bytes) return;
      const std::uint32_t id = entry.socket();
      parts.queues[id].push_back({std::move(entry), std::move(*bytes)});
    }
  }

  void all() {
    if (!single(FileKind::inventory, 0, parts.inventory, true)) return;
    tree();
    std::set<std::uint32_t> seen;
    for (const pb::TreeEntry& entry : parts.tree)
      if (seen.insert(entry.pid()).second) task(entry);
    by_id(FileKind::files, parts.files, [](const pb::File& file) { return file.id(); });
    EntryReader remaps = reader(FileKind::remaps);
    pb::Remap remap;
    while (remaps.next(remap)) parts.remaps.push_back(remap);
    pipes();
    queues();
    by_id(FileKind::terminals, parts.terminals, [](const pb::Terminal& terminal) { return terminal.id(); });
    by_id(FileKind::memory_files, parts.memory_inodes, [](const pb::MemoryInode& inode) { return inode.inode_id(); });
    EntryReader locks = reader(FileKind::locks);
    pb::FileLock lock;
    while (locks.next(lock)) parts.locks.push_back(lock);
  }
};

struct Writing {
  int directory;

  template <class Message>
  Result<void> one(FileKind kind, std::uint64_t number, const Message& message) const {
    EntryWriter out = RELIVE_TRY(EntryWriter::create(directory, kind, number));
    RELIVE_TRY(out.put(message));
    return out.finish();
  }
  template <class Messages>
  Result<void> many(FileKind kind, std::uint64_t number, const Messages& messages, auto message_of) const {
    EntryWriter out = RELIVE_TRY(EntryWriter::create(directory, kind, number));
    for (const auto& message : messages) RELIVE_TRY(out.put(message_of(message)));
    return out.finish();
  }
  template <class Messages>
  Result<void> values_of(FileKind kind, const Messages& messages) const {
    if (messages.empty()) return {};
    return many(kind, 0, messages, [](const auto& pair) -> const auto& { return pair.second; });
  }
  template <class Messages>
  Result<void> by_number(FileKind kind, const Messages& messages) const {
    for (const auto& [number, message] : messages) RELIVE_TRY(one(kind, number, message));
    return {};
  }
};

}  // namespace

Parts read_parts(const ImageSource& source, Findings& findings, Budget& budget) {
  Reading reading{source, findings, budget};
  reading.all();
  return std::move(reading.parts);
}

Result<void> write_parts(int directory, const Parts& parts) {
  const Writing out{directory};
  const auto itself = [](const auto& message) -> const auto& { return message; };
  RELIVE_TRY(out.many(FileKind::pstree, 0, parts.tree, itself));
  RELIVE_TRY(out.by_number(FileKind::core, parts.cores));
  RELIVE_TRY(out.by_number(FileKind::ids, parts.ids));
  RELIVE_TRY(out.by_number(FileKind::mm, parts.memories));
  RELIVE_TRY(out.by_number(FileKind::fs, parts.fs));
  for (const auto& [id, table] : parts.tables) RELIVE_TRY(out.many(FileKind::fdinfo, id, table, itself));
  RELIVE_TRY(out.values_of(FileKind::files, parts.files));
  if (!parts.remaps.empty()) RELIVE_TRY(out.many(FileKind::remaps, 0, parts.remaps, itself));
  RELIVE_TRY(out.values_of(FileKind::terminals, parts.terminals));
  RELIVE_TRY(out.values_of(FileKind::memory_files, parts.memory_inodes));
  if (!parts.locks.empty()) RELIVE_TRY(out.many(FileKind::locks, 0, parts.locks, itself));
  if (!parts.pipes.empty()) {
    EntryWriter pipes = RELIVE_TRY(EntryWriter::create(directory, FileKind::pipes_data));
    for (const auto& [id, contents] : parts.pipes) {
      pb::PipeData entry;
      entry.set_pipe(id);
      entry.set_bytes(static_cast<std::uint32_t>(contents.bytes.size()));
      entry.set_capacity(contents.capacity);
      RELIVE_TRY(pipes.put(entry));
      RELIVE_TRY(pipes.put_bytes(contents.bytes));
    }
    RELIVE_TRY(pipes.finish());
  }
  if (!parts.queues.empty()) {
    EntryWriter queues = RELIVE_TRY(EntryWriter::create(directory, FileKind::socket_queues));
    for (const auto& [id, messages] : parts.queues)
      for (const WaitingMessage& message : messages) {
        RELIVE_TRY(queues.put(message.entry));
        RELIVE_TRY(queues.put_bytes(message.bytes));
      }
    RELIVE_TRY(queues.finish());
  }
  return out.by_number(FileKind::extra, parts.extras);
}

Result<void> write_inventory(int directory, const Parts& parts) {
  return Writing{directory}.one(FileKind::inventory, 0, parts.inventory);
}

}  // namespace relive::image
