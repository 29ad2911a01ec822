// Files with a path, or that had one: regular files, directories, devices, memfds.
#include <fcntl.h>
#include <fmt/format.h>

#include <string_view>
#include <utility>

#include "image/files.h"

namespace relive::image {

namespace {

constexpr std::string_view kDeleted = " (deleted)";
constexpr std::string_view kMemory = "/memfd:";
constexpr std::uint32_t kIsLink = 0;  // pb::Remap.type
constexpr std::uint32_t kIsGhost = 1;
constexpr std::uint32_t kExtraDirectory = 1;  // pb::ExtraFile.kind
constexpr std::uint32_t kExtraDevice = 2;
constexpr std::uint32_t kModeMask = 0170000;  // S_IFMT, inode(7)
constexpr std::uint32_t kModeDirectory = 0040000;
constexpr std::uint32_t kModeCharacters = 0020000;

std::string without_mark(const std::string& path) {
  return path.ends_with(kDeleted) ? path.substr(0, path.size() - kDeleted.size()) : path;
}

std::string memory_name(const std::string& link) {
  std::string name = without_mark(link);
  if (name.starts_with(kMemory)) name.erase(0, kMemory.size());
  return name;
}

void no_owner(pb::Owner& owner) {
  owner.set_uid(0);
  owner.set_euid(0);
  owner.set_signal(0);
  owner.set_type(0);
  owner.set_pid(0);
}

void identity_to(const model::FileIdentity& identity, pb::ExtraFile& extra) {
  extra.set_device(identity.device);
  extra.set_inode(identity.inode);
}

model::FileIdentity identity_from(const pb::ExtraFile* extra) {
  return extra == nullptr ? model::FileIdentity{} : model::FileIdentity{extra->device(), extra->inode()};
}

}  // namespace

std::uint32_t FileWriting::named(const std::string& path, std::uint32_t flags, std::uint64_t address) {
  const auto known = named_.find({path, flags});
  if (known != named_.end()) return known->second;
  const std::uint32_t id = new_file();
  named_.emplace(std::pair{path, flags}, id);
  pb::File& file = parts.files[id];
  file.set_type(static_cast<std::uint32_t>(FileType::regular));
  file.set_id(id);
  pb::RegularFile& regular = *file.mutable_regular();
  regular.set_id(id);
  regular.set_flags(flags);
  regular.set_position(0);
  no_owner(*regular.mutable_owner());
  regular.set_path(without_mark(path));
  if (path.ends_with(kDeleted) && address != 0)
    make_ghost(id, {}, {.ghost = 0, .object = 0, .task = task, .mapped = true, .address = address, .index = 0});
  return id;
}

void FileWriting::make_ghost(std::uint32_t id, model::FileIdentity identity, Unnamed where) {
  std::uint32_t ghost = 0;
  const auto known = ghosts_.find(identity);
  if (identity != model::FileIdentity{} && known != ghosts_.end()) {
    ghost = known->second;
  } else {
    ghost = next_ghost_++;
    if (identity != model::FileIdentity{}) ghosts_.emplace(identity, ghost);
    where.ghost = ghost;
    unnamed.push_back(where);
  }
  pb::Remap& remap = parts.remaps.emplace_back();
  remap.set_file(id);
  remap.set_remap(ghost);
  remap.set_type(kIsGhost);
}

std::uint64_t FileWriting::memory_inode(model::FileIdentity identity, const std::string& link,
                                        const model::MemoryFile& memory, Unnamed where) {
  const auto known = inodes_.find(identity);
  std::uint64_t id = known == inodes_.end() ? inodes_.size() + 1 : known->second;
  pb::MemoryInode& inode = parts.memory_inodes[id];
  if (known == inodes_.end()) {
    inodes_.emplace(identity, id);
    inode.set_name(memory_name(link));
    inode.set_uid(0);
    inode.set_gid(0);
    inode.set_size(0);
    inode.set_object(new_object());
    inode.set_seals(memory.seals);
    inode.set_inode_id(id);
  }
  // A mapping tells neither size nor seals; an open file does.
  if (!where.mapped) inode.set_seals(memory.seals);
  inode.set_size(std::max(inode.size(), static_cast<std::uint64_t>(memory.size)));
  where.object = inode.object();
  unnamed.push_back(where);
  return id;
}

std::string FileReading::path_of(const pb::RegularFile& file) const {
  const auto at = remaps.find(file.id());
  if (at == remaps.end() || at->second->type() == kIsLink) return file.path();
  return file.path() + std::string(kDeleted);
}

namespace kinds {

void regular_to(const model::OpenFile& open, const model::RegularFile& regular, std::size_t index, FileWriting& out,
                File& file, pb::ExtraFile& extra) {
  identity_to(regular.identity, extra);
  const Unnamed where{.ghost = 0, .object = 0, .task = out.task, .mapped = false, .address = 0, .index = index};
  if (regular.memory) {
    file.set_type(static_cast<std::uint32_t>(FileType::memory_file));
    pb::MemoryFile& made = *file.mutable_memory_file();
    made.set_id(file.id());
    made.set_flags(flags_to(open));
    made.set_position(static_cast<std::uint64_t>(regular.position));
    owner_to(open, *made.mutable_owner());
    made.set_inode_id(
        static_cast<std::uint32_t>(out.memory_inode(regular.identity, regular.path, *regular.memory, where)));
    extra.set_resident(regular.memory->resident);
    extra.set_digest(regular.memory->digest);
    return;
  }
  file.set_type(static_cast<std::uint32_t>(FileType::regular));
  pb::RegularFile& made = *file.mutable_regular();
  made.set_id(file.id());
  made.set_flags(flags_to(open));
  made.set_position(static_cast<std::uint64_t>(regular.position));
  owner_to(open, *made.mutable_owner());
  made.set_path(without_mark(regular.path));
  if (regular.directory) extra.set_kind(kExtraDirectory);
  if (regular.deleted) out.make_ghost(file.id(), regular.identity, where);
}

void device_to(const model::OpenFile& open, const model::DeviceFile& device, File& file, pb::ExtraFile& extra) {
  identity_to(device.identity, extra);
  extra.set_kind(kExtraDevice);
  extra.set_device_number(device.device_number);
  file.set_type(static_cast<std::uint32_t>(FileType::regular));
  pb::RegularFile& made = *file.mutable_regular();
  made.set_id(file.id());
  made.set_flags(flags_to(open));
  made.set_position(static_cast<std::uint64_t>(device.position));
  owner_to(open, *made.mutable_owner());
  made.set_path(device.path);
}

model::FileObject regular_from(const File& file, const pb::ExtraFile* extra, const FileReading& in,
                               model::OpenFile& open) {
  const pb::RegularFile& from = file.regular();
  open.status_flags = from.flags();
  owner_from(from.owner(), open);
  if (from.path().empty() || from.path().front() != '/' || from.path().size() >= 4096 ||
      from.path().find('\0') != std::string::npos)
    in.damaged(file.id(), fmt::format("path of {} bytes that is not absolute, or no path", from.path().size()));
  else if ((from.path() + "/").find("/../") != std::string::npos)
    in.damaged(file.id(), "path climbs: " + from.path());
  if (from.position() >> 63 != 0) in.damaged(file.id(), fmt::format("position {:#x}", from.position()));
  if (from.external()) in.unsupported(file.id(), "was left to somebody else (an external file)");
  const std::uint32_t mode = from.mode() & kModeMask;
  const bool device = mode == kModeCharacters || (extra != nullptr && extra->kind() == kExtraDevice);
  if (device)
    return model::DeviceFile{.path = from.path(),
                             .identity = identity_from(extra),
                             .device_number = extra == nullptr ? 0 : extra->device_number(),
                             .position = static_cast<std::int64_t>(from.position())};
  model::RegularFile regular;
  regular.path = in.path_of(from);
  regular.identity = identity_from(extra);
  regular.directory = mode == kModeDirectory ||
                      (mode == 0 && (from.flags() & O_DIRECTORY) != 0 && (from.flags() & O_TMPFILE) != O_TMPFILE) ||
                      (extra != nullptr && extra->kind() == kExtraDirectory);
  regular.deleted = regular.path.size() != from.path().size();
  regular.position = static_cast<std::int64_t>(from.position());
  return regular;
}

model::FileObject memory_file_from(const File& file, const pb::ExtraFile* extra, const FileReading& in,
                                   model::OpenFile& open) {
  const pb::MemoryFile& from = file.memory_file();
  open.status_flags = from.flags();
  owner_from(from.owner(), open);
  model::RegularFile regular;
  regular.identity = identity_from(extra);
  regular.deleted = true;
  regular.position = static_cast<std::int64_t>(from.position());
  const auto inode = in.parts.memory_inodes.find(from.inode_id());
  if (inode == in.parts.memory_inodes.end()) {
    in.damaged(file.id(), fmt::format("memfd {} is not in {}", from.inode_id(), file_name(FileKind::memory_files)));
    return regular;
  }
  if (inode->second.size() >> 62 != 0) in.damaged(file.id(), fmt::format("memfd of {} bytes", inode->second.size()));
  if (inode->second.huge_pages() != 0) in.unsupported(file.id(), "is a memfd of huge pages");
  if (inode->second.name().size() > 249 || inode->second.name().find('\0') != std::string::npos)  // memfd_create(2)
    in.damaged(file.id(), fmt::format("memfd with a name of {} bytes", inode->second.name().size()));
  regular.path = fmt::format("{}{}{}", kMemory, inode->second.name(), kDeleted);
  model::MemoryFile memory;
  memory.seals = inode->second.seals();
  memory.size = static_cast<std::int64_t>(inode->second.size());
  if (extra != nullptr) {
    memory.resident = extra->resident();
    memory.digest = extra->digest();
  }
  regular.memory = memory;
  return regular;
}

}  // namespace kinds

}  // namespace relive::image
