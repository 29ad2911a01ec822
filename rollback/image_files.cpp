#include "rollback/image_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/fault.h"
#include "image/entries.h"

namespace relive::rollback {

namespace {

using model::OpenFile;

constexpr std::string_view kDeleted = " (deleted)";
constexpr std::string_view kMemory = "/memfd:";
constexpr std::size_t kCopyBytes = std::size_t{1} << 20;
// What is told of a file at its opening, and what may be set later but is better refused before a commit.
constexpr std::uint32_t kOpenFlags =
    O_ACCMODE | O_PATH | O_DIRECTORY | O_NOFOLLOW | O_SYNC | O_APPEND | O_DIRECT | O_NOATIME;

std::string without_mark(std::string_view path) {
  if (path.ends_with(kDeleted)) path.remove_suffix(kDeleted.size());
  return std::string(path);
}

std::string directory_of(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
}

std::uint32_t open_flags(const OpenFile& file) {
  std::uint32_t flags = file.status_flags & kOpenFlags;
  // F_GETFL tells how it was opened: a file made with O_TMPFILE looks like a directory.
  if ((file.status_flags & O_TMPFILE) == O_TMPFILE) flags &= ~std::uint32_t{O_DIRECTORY};
  if ((flags & O_PATH) != 0) return flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW);
  return flags | O_NOCTTY | O_NONBLOCK;  // nobody is waited for: neither a lease nor the other end of a pipe
}

// A path that lies in `root`, as seen from there.
std::optional<std::string> below(std::string_view root, const std::string& path) {
  if (root == "/" || root.empty()) return path;
  if (path == root) return "/";
  if (path.size() > root.size() && path.starts_with(root) && path[root.size()] == '/') return path.substr(root.size());
  return std::nullopt;
}

// One task, opening files. Paths are as relive sees them (readlink(2) of links in /proc), not as the task does.
class Opener {
 public:
  Opener(parasite::Visit& visit, const model::Process& wanted, const model::Process& living)
      : visit_(visit), root_path_(wanted.root.path), may_leave_(living.powers.change_root) {}

  // The task's root directory is to be another one.
  Result<void> set_root(int directory) {
    root_ = RELIVE_TRY(give(directory));
    return {};
  }
  Result<void> end() {
    for (auto* const number : {&root_, &outside_})
      if (*number) RELIVE_TRY(close(*std::exchange(*number, std::nullopt)));
    return {};
  }

  Result<UniqueFd> open(const std::string& path, std::uint32_t flags, std::uint32_t mode = 0) {
    if (const auto inside = below(root_path_, path)) return open_from(root_, *inside, flags, mode);
    // Opened before a chroot(2). Who may not call that is not helped out of his directory.
    if (!may_leave_)
      return fail(ErrorKind::refused, fmt::format("{} lies outside of the task's root directory {}", path, root_path_));
    if (!outside_) {
      const UniqueFd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
      outside_ = RELIVE_TRY(give(root.get()));
    }
    return open_from(outside_, path, flags, mode);
  }
  Result<UniqueFd> make_memory(const std::string& name, std::uint32_t flags) {
    const auto there = RELIVE_TRY(visit_.arena().put(std::as_bytes(std::span(name.c_str(), name.size() + 1))));
    return take("memfd_create " + name, SYS_memfd_create, {there.value, flags | MFD_CLOEXEC});
  }
  Result<UniqueFd> open_queue(const std::string& name, std::uint32_t flags) {
    const auto there = RELIVE_TRY(visit_.arena().put(std::as_bytes(std::span(name.c_str(), name.size() + 1))));
    return take("mq_open " + name, SYS_mq_open, {there.value, flags | O_CLOEXEC, 0, 0});
  }

 private:
  // `root`: where the path counts from; none: the root directory that the task has now.
  Result<UniqueFd> open_from(const std::optional<model::RemoteFd>& root, const std::string& path, std::uint32_t flags,
                             std::uint32_t mode) {
    const auto name = RELIVE_TRY(visit_.arena().put(std::as_bytes(std::span(path.c_str(), path.size() + 1))));
    if (!root)
      return take("open " + path, SYS_openat,
                  {static_cast<std::uint64_t>(AT_FDCWD), name.value, flags | O_CLOEXEC, mode});
    const open_how how{.flags = flags | O_CLOEXEC, .mode = mode, .resolve = RESOLVE_IN_ROOT};
    const auto there = RELIVE_TRY(visit_.arena().put_value(how));
    return take("open " + path, SYS_openat2,
                {static_cast<std::uint64_t>(root->value), name.value, there.value, sizeof how});
  }
  Result<model::RemoteFd> give(int ours) {
    const model::RemoteFd number = RELIVE_TRY(visit_.spare_descriptor());
    RELIVE_TRY(record_close(number));
    RELIVE_TRY(visit_.give(ours, number));
    return number;
  }
  // Makes it where the kernel puts it, takes a duplicate, and closes it there.
  Result<UniqueFd> take(std::string what, long call, std::initializer_list<std::uint64_t> arguments) {
    RELIVE_TRY(fault_point("apply: find a file"));
    for (const model::RemoteFd number : RELIVE_TRY(visit_.next_descriptors(1))) RELIVE_TRY(record_close(number));
    const auto made = RELIVE_TRY(visit_.syscall(std::move(what), call, arguments));
    const model::RemoteFd number{static_cast<int>(made)};
    auto ours = visit_.task().borrow(number);
    RELIVE_TRY(close(number));
    return ours;
  }
  Result<void> record_close(model::RemoteFd number) {
    return visit_.record_undo("close what was opened", SYS_close, {static_cast<std::uint64_t>(number.value)});
  }
  Result<void> close(model::RemoteFd number) {
    RELIVE_TRY(visit_.syscall("close what was opened", SYS_close, {static_cast<std::uint64_t>(number.value)}));
    visit_.note_closed(number);
    return {};
  }

  parasite::Visit& visit_;
  std::string root_path_;
  bool may_leave_;
  std::optional<model::RemoteFd> root_;     // in the task; where its root directory will be another one
  std::optional<model::RemoteFd> outside_;  // in the task: relive's own
};

// Another opening of what is open here.
Result<UniqueFd> open_again(int ours, std::uint32_t flags) {
  UniqueFd again(::open(fmt::format("/proc/self/fd/{}", ours).c_str(),
                        static_cast<int>(flags & ~std::uint32_t{O_NOFOLLOW}) | O_CLOEXEC));
  if (!again) return fail_errno("open again", "a file without a name");
  return again;
}

Result<void> write_at(int fd, std::span<const std::byte> bytes, std::uint64_t offset) {
  if (::lseek(fd, static_cast<off_t>(offset), SEEK_SET) < 0) return fail_errno("lseek", "a file without a name");
  return image::write_all(fd, bytes, "a file without a name");
}

class Finder {
 public:
  Finder(Stay& stay, Arrival& arrival, const Living& living, const Plan& plan)
      : stay_(stay), arrival_(arrival), wanted_(arrival.snapshot), living_(living), plan_(plan) {}

  Result<std::vector<diff::Refusal>> find() {
    for (std::size_t index = 0; index < plan_.tasks.size(); ++index)
      if (plan_.tasks[index]) RELIVE_TRY(directories(index));
    for (const diff::DescriptorOperation& operation : plan_.descriptors.operations)
      RELIVE_TRY(std::visit([this](const auto& one) { return of(one); }, operation));
    for (std::size_t index = 0; index < plan_.tasks.size(); ++index)
      if (plan_.tasks[index]) RELIVE_TRY(mapped_files(index));
    for (auto& [pid, opener] : openers_) RELIVE_TRY(opener.end());
    return std::move(refusals_);
  }

 private:
  // ---------------------------------------------------------------- whose rights count
  Opener& opener(model::Pid pid) {
    if (const auto known = openers_.find(pid); known != openers_.end()) return known->second;
    const std::size_t index = *wanted_.index_of(pid);
    const model::Process& process = wanted_.tree.tasks[index].process;
    return openers_.emplace(pid, Opener(*stay_.visit(pid), process, living_.tasks[index]->process)).first->second;
  }
  Opener& opener_of(std::size_t file) {
    return opener(plan_.descriptors.tasks[static_cast<std::size_t>(plan_.descriptors.homes[file])]);
  }

  // What cannot be had is a refusal; what failed otherwise ends it all.
  Result<void> judge(Result<UniqueFd> found, std::string object, UniqueFd& into) {
    if (found) {
      into = *std::move(found);
      return {};
    }
    const Error& error = found.error();
    if (error.kind == ErrorKind::injected || error.kind == ErrorKind::task_died) return std::unexpected(error);
    refusals_.push_back(
        {.object = std::move(object),
         .reason = "cannot be had here: " + error.text(),
         .hint =
             "an image has no file that has a name: it must be where it was, and the task must be able to open it"});
    return {};
  }

  // ---------------------------------------------------------------- descriptors
  template <class Operation>
  Result<void> of(const Operation& operation) {
    if constexpr (std::is_same_v<Operation, diff::TakeHeld>) {
      UniqueFd found;
      RELIVE_TRY(judge(open_file(operation.file), name_of(operation.file), found));
      if (found) wanted_.files.open_files[operation.file] = std::move(found);
    } else if constexpr (std::is_same_v<Operation, diff::OpenAnew>) {
      UniqueFd found;
      RELIVE_TRY(judge(open_file(operation.file), name_of(operation.file), found));
      if (found) wanted_.files.references[operation.file] = std::move(found);
    } else if constexpr (std::is_same_v<Operation, diff::PutContents>) {
      RELIVE_TRY(contents(operation.file));
    } else if constexpr (std::is_same_v<Operation, diff::MakeSocket> ||
                         std::is_same_v<Operation, diff::MakeConnection> ||
                         std::is_same_v<Operation, diff::ConnectSocket>) {
      if constexpr (requires { operation.file; }) return name_directory(operation.file);
    } else if constexpr (requires { operation.senders; }) {  // messages are sent to its name, and from theirs
      RELIVE_TRY(name_directory(operation.file));
      for (const auto& sender : operation.senders)
        if (sender) RELIVE_TRY(name_directory(*sender));
    }
    return {};
  }

  std::string name_of(std::size_t file) const {
    const auto& descriptors = wanted_.tree.descriptors;
    const auto at = std::ranges::find(descriptors.descriptors, file, &model::Descriptor::open_file);
    std::string what = model::describe(descriptors.open_files[file]);
    if (at == descriptors.descriptors.end()) return what;
    return fmt::format("{} ({})", model::name_of(at->fd, plan_.descriptors.tasks), what);
  }

  Result<UniqueFd> open_file(std::size_t index) {
    const OpenFile& file = wanted_.tree.descriptors.open_files[index];
    if (const auto* const regular = std::get_if<model::RegularFile>(&file.object)) {
      if (regular->memory || regular->deleted) {
        const int made = RELIVE_TRY(unnamed(index, *regular));
        return open_again(made, open_flags(file));
      }
      return open_named(index, regular->path, regular->directory ? S_IFDIR : 0, 0);
    }
    if (const auto* const device = std::get_if<model::DeviceFile>(&file.object))
      return open_named(index, device->path, S_IFCHR, device->device_number);
    if (const auto* const queue = std::get_if<model::MessageQueue>(&file.object)) {
      // Below the mount point a queue's name is what mq_open(2) takes, without its slash.
      return opener_of(index).open_queue(queue->path.substr(queue->path.rfind('/') + 1), file.status_flags & O_ACCMODE);
    }
    return fail(ErrorKind::refused, "this release does not make it from an image");
  }

  // `kind`: S_IFMT of what it must be; 0: no directory and no device, or whatever an O_PATH reference may lead to.
  Result<UniqueFd> open_named(std::size_t index, const std::string& path, mode_t kind, std::uint64_t device) {
    const OpenFile& file = wanted_.tree.descriptors.open_files[index];
    UniqueFd found = RELIVE_TRY(opener_of(index).open(path, open_flags(file)));
    struct stat status{};
    if (::fstat(found.get(), &status) != 0) return fail_errno("fstat", path);
    const mode_t is = status.st_mode & S_IFMT;
    const bool reference = (file.status_flags & O_PATH) != 0;
    if (kind != 0 ? is != kind : !reference && is != S_IFREG)
      return fail(ErrorKind::refused, fmt::format("{} is something else now", path));
    if (!reference && kind == S_IFCHR && device != 0 && status.st_rdev != device)
      return fail(ErrorKind::refused, fmt::format("{} is another device now", path));
    return found;
  }

  // ---------------------------------------------------------------- what has no name
  // A descriptor of ours that has it open for reading and writing, made now if nobody has it any more; all that lead to
  // one object get the same.
  Result<int> unnamed(std::size_t index, const model::RegularFile& file) {
    const auto known = unnamed_.find(file.identity);
    if (file.identity != model::FileIdentity{} && known != unnamed_.end()) return known->second.get();
    const Arrival::Source& source = arrival_.files[index];
    const image::ImagedTask& task = arrival_.image.tasks[source.task];
    UniqueFd made = find_living(file.identity);
    if (!made && file.memory) {
      const auto object = task.memory_files.find(source.file);
      made = RELIVE_TRY(make_memory(opener_of(index), file.path, *file.memory,
                                    object == task.memory_files.end() ? nullptr : find_object(object->second)));
    } else if (!made) {
      made = RELIVE_TRY(make_ghost(opener_of(index), file.path, task.file_ids[source.file]));
    }
    return keep(file.identity, std::move(made));
  }
  int keep(model::FileIdentity identity, UniqueFd made) {
    if (identity != model::FileIdentity{}) return (unnamed_[identity] = std::move(made)).get();
    return others_.emplace_back(std::move(made)).get();
  }

  const image::PageRuns* find_object(std::uint32_t number) const {
    const auto object = arrival_.image.objects.find(number);
    return object == arrival_.image.objects.end() ? nullptr : &object->second.pages;
  }

  // The object itself, where some task still has it open for reading and writing.
  UniqueFd find_living(model::FileIdentity identity) {
    if (identity == model::FileIdentity{}) return {};
    for (const model::Descriptor& descriptor : living_.descriptors.descriptors) {
      const OpenFile& file = living_.descriptors.open_files[descriptor.open_file];
      const auto* const regular = std::get_if<model::RegularFile>(&file.object);
      if (regular == nullptr || regular->identity != identity || (file.status_flags & O_PATH) != 0) continue;
      if (!regular->memory && (file.status_flags & O_ACCMODE) != O_RDWR) continue;
      const auto table = static_cast<std::size_t>(descriptor.fd.table);
      if (table >= plan_.descriptors.tasks.size()) continue;
      auto ours = stay_.visit(plan_.descriptors.tasks[table])->task().borrow(descriptor.fd);
      if (ours) return *std::move(ours);
    }
    return {};
  }

  Result<UniqueFd> make_memory(Opener& opener, const std::string& path, const model::MemoryFile& memory,
                               const image::PageRuns* pages) {
    std::string name = without_mark(path);
    if (name.starts_with(kMemory)) name.erase(0, kMemory.size());
    constexpr std::uint32_t kNoSeals = F_SEAL_SEAL;  // what a memfd has that was made without MFD_ALLOW_SEALING
    const bool sealable = memory.seals != kNoSeals;
    UniqueFd made = RELIVE_TRY(opener.make_memory(name, sealable ? MFD_ALLOW_SEALING : 0));
    RELIVE_TRY(fill(made.get(), static_cast<std::uint64_t>(memory.size), pages));
    if (sealable && memory.seals != 0 && ::fcntl(made.get(), F_ADD_SEALS, memory.seals) != 0)
      return fail_errno("fcntl F_ADD_SEALS", path);
    return made;
  }

  Result<void> fill(int fd, std::uint64_t size, const image::PageRuns* pages) {
    if (::ftruncate(fd, static_cast<off_t>(size)) != 0) return fail_errno("ftruncate", "a memfd");
    if (pages == nullptr) return {};
    std::vector<std::byte> buffer(kCopyBytes);
    for (const image::PageRun& run : *pages) {
      if (run.file == image::PageRun::kZeros) continue;
      for (std::uint64_t first = 0; first < run.pages; first += kCopyBytes / kPageSize) {
        const std::uint64_t count = std::min<std::uint64_t>(kCopyBytes / kPageSize, run.pages - first);
        const auto part = std::span(buffer).first(count * kPageSize);
        RELIVE_TRY(arrival_.image.page_files.read(run, first, part));
        const std::uint64_t at = run.address + first * kPageSize;
        if (at >= size) break;
        RELIVE_TRY(write_at(fd, part.first(std::min<std::uint64_t>(part.size(), size - at)), at));
      }
    }
    return {};
  }

  // A file without a name in the directory that it was in.
  Result<UniqueFd> make_ghost(Opener& opener, const std::string& path, std::uint32_t id) {
    const auto found = arrival_.image.ghosts.find(id);
    if (found == arrival_.image.ghosts.end()) return fail(ErrorKind::refused, "the image does not have what was in it");
    const image::Ghost& ghost = found->second;
    if (!S_ISREG(ghost.mode))
      return fail(ErrorKind::refused, "a deleted file that is no regular one is not made again");
    constexpr std::uint32_t kPermissions = 07777;
    UniqueFd made =
        RELIVE_TRY(opener.open(directory_of(without_mark(path)), O_TMPFILE | O_RDWR, ghost.mode & kPermissions));
    if (::ftruncate(made.get(), static_cast<off_t>(ghost.size)) != 0) return fail_errno("ftruncate", path);
    std::vector<std::byte> buffer(kCopyBytes);
    for (const image::Ghost::Piece& piece : ghost.pieces) {
      for (std::uint64_t at = 0; at < piece.bytes; at += kCopyBytes) {
        const auto part = std::span(buffer).first(std::min<std::uint64_t>(kCopyBytes, piece.bytes - at));
        RELIVE_TRY(arrival_.image.page_files.read_bytes(ghost.file, piece.position + at, part));
        RELIVE_TRY(write_at(made.get(), part, piece.offset + at));
      }
    }
    return made;
  }

  // What was in an open memfd, as the keeper of a snapshot has it.
  Result<void> contents(std::size_t index) {
    const auto& file = std::get<model::RegularFile>(wanted_.tree.descriptors.open_files[index].object);
    if (wanted_.files.contents.contains(index)) return {};
    if ((file.memory->seals & F_SEAL_WRITE) != 0) return {};  // made with them, or never changed since
    if (file.memory->resident > model::kMemoryFileLimit) {
      refusals_.push_back({.object = name_of(index), .reason = "has more contents than relive puts back", .hint = {}});
      return {};
    }
    const Arrival::Source& source = arrival_.files[index];
    const image::ImagedTask& task = arrival_.image.tasks[source.task];
    const auto object = task.memory_files.find(source.file);
    UniqueFd copy(::memfd_create("relive-contents", MFD_CLOEXEC));
    if (!copy) return fail_errno("memfd_create", "for the contents of a memfd");
    RELIVE_TRY(fill(copy.get(), static_cast<std::uint64_t>(file.memory->size),
                    object == task.memory_files.end() ? nullptr : find_object(object->second)));
    wanted_.files.contents[index] = std::move(copy);
    return {};
  }

  // Where the relative name of a unix socket counts from.
  Result<void> name_directory(std::size_t index) {
    const auto* const socket = std::get_if<model::Socket>(&wanted_.tree.descriptors.open_files[index].object);
    if (socket == nullptr || !socket->file || socket->file->directory.empty()) return {};
    if (wanted_.files.references.contains(index)) return {};
    UniqueFd found;
    RELIVE_TRY(judge(opener_of(index).open(socket->file->directory, O_PATH | O_DIRECTORY), name_of(index), found));
    if (found) wanted_.files.references[index] = std::move(found);
    return {};
  }

  // ---------------------------------------------------------------- directories
  Result<void> directories(std::size_t index) {
    const model::Task& task = wanted_.tree.tasks[index];
    TaskPart& part = wanted_.parts[index];
    for (const diff::ProcessOperation& operation : plan_.tasks[index]->process.operations) {
      if (std::holds_alternative<diff::ChangeRoot>(operation)) {
        // Who may call chroot(2) gets everywhere: it is opened as relive sees it, and must be what it was.
        UniqueFd root(::open(task.process.root.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        struct stat status{};
        if (!root || ::fstat(root.get(), &status) != 0 ||
            (task.process.root.inode != 0 &&
             (status.st_dev != task.process.root.device || status.st_ino != task.process.root.inode))) {
          refusals_.push_back({.object = "root directory",
                               .reason = fmt::format("{} is another directory now", task.process.root.path),
                               .hint = {}});
          continue;
        }
        RELIVE_TRY(opener(task.pid).set_root(root.get()));
        part.holds.root = std::move(root);
      }
    }
    for (const diff::ProcessOperation& operation : plan_.tasks[index]->process.operations) {
      if (!std::holds_alternative<diff::ChangeDirectory>(operation)) continue;
      RELIVE_TRY(judge(opener(task.pid).open(task.process.cwd.path, O_PATH | O_DIRECTORY),
                       "current directory " + task.process.cwd.path, part.holds.cwd));
    }
    return {};
  }

  // ---------------------------------------------------------------- mapped files
  Result<void> mapped_files(std::size_t index) {
    for (const diff::MemoryOperation& operation : plan_.tasks[index]->memory.operations) {
      const auto* const make = std::get_if<diff::MakeMapping>(&operation);
      if (make == nullptr || !make->mapping.has_object() ||
          make->mapping.source == model::MappingSource::shared_anonymous ||
          wanted_.parts[index].holds.mapped_files.contains(make->hold_key))
        continue;
      UniqueFd found;
      const std::size_t before = refusals_.size();
      RELIVE_TRY(judge(open_mapped(index, *make), "mapping " + model::mapping_text(make->mapping), found));
      if (make->twin != 0) refusals_.resize(before);  // it is had from where it is mapped now
      if (found) wanted_.parts[index].holds.mapped_files[make->hold_key] = std::move(found);
    }
    return {};
  }

  Result<UniqueFd> open_mapped(std::size_t index, const diff::MakeMapping& make) {
    const model::Mapping& mapping = make.mapping;
    const model::Pid pid = wanted_.tree.tasks[index].pid;
    const std::uint32_t flags = model::needs_writable_file(mapping) ? O_RDWR : O_RDONLY;
    const model::FileIdentity identity{mapping.device, mapping.inode};
    if (mapping.source == model::MappingSource::file) {
      UniqueFd found = RELIVE_TRY(opener(pid).open(mapping.name, flags | O_NOCTTY | O_NONBLOCK));
      struct stat status{};
      if (::fstat(found.get(), &status) != 0) return fail_errno("fstat", mapping.name);
      if (!S_ISREG(status.st_mode)) return fail(ErrorKind::refused, "it is no regular file");
      if (mapping.inode != 0 && (status.st_dev != mapping.device || status.st_ino != mapping.inode))
        return fail(ErrorKind::refused, "it is another file now");
      return found;
    }
    if (const auto known = unnamed_.find(identity); known != unnamed_.end())
      return open_again(known->second.get(), flags);
    if (UniqueFd living = find_living(identity)) return open_again(keep(identity, std::move(living)), flags);
    const image::ImagedTask& imaged = arrival_.image.tasks[arrival_.tasks[index]];
    // Of the mappings of one file the first tells where it is kept.
    for (const model::Mapping& other : wanted_.tree.tasks[index].memory.mappings) {
      if (other.device != mapping.device || other.inode != mapping.inode || other.source != mapping.source) continue;
      if (const auto ghost = imaged.mapped_ghosts.find(other.range.begin); ghost != imaged.mapped_ghosts.end())
        return open_again(keep(identity, RELIVE_TRY(make_ghost(opener(pid), mapping.name, ghost->second))), flags);
      const auto object = imaged.mapped_objects.find(other.range.begin);
      if (mapping.source != model::MappingSource::memfd || object == imaged.mapped_objects.end()) continue;
      return open_again(keep(identity, RELIVE_TRY(mapped_memory(pid, mapping, object->second))), flags);
    }
    return fail(ErrorKind::refused, "the image does not have what was in it");
  }

  // A memfd that was mapped, and perhaps open as well: then its size and seals are known.
  Result<UniqueFd> mapped_memory(model::Pid pid, const model::Mapping& mapping, std::uint32_t object) {
    const image::PageRuns* const pages = find_object(object);
    const model::FileIdentity identity{mapping.device, mapping.inode};
    for (const OpenFile& file : wanted_.tree.descriptors.open_files) {
      const auto* const regular = std::get_if<model::RegularFile>(&file.object);
      if (regular != nullptr && regular->memory && regular->identity == identity)
        return make_memory(opener(pid), mapping.name, *regular->memory, pages);
    }
    model::MemoryFile memory;
    if (pages != nullptr && !pages->empty()) memory.size = static_cast<std::int64_t>(pages->back().range().end);
    for (const model::Task& task : wanted_.tree.tasks)
      for (const model::Mapping& other : task.memory.mappings)
        if (model::FileIdentity{other.device, other.inode} == identity)
          memory.size = std::max(memory.size, static_cast<std::int64_t>(other.offset + other.range.size()));
    return make_memory(opener(pid), mapping.name, memory, pages);
  }

  Stay& stay_;
  Arrival& arrival_;
  Snapshot& wanted_;
  const Living& living_;
  const Plan& plan_;
  std::map<model::Pid, Opener> openers_;
  std::map<model::FileIdentity, UniqueFd> unnamed_;  // by what the image calls them
  std::vector<UniqueFd> others_;                     // those that it calls nothing
  std::vector<diff::Refusal> refusals_;
};

}  // namespace

Result<std::vector<diff::Refusal>> find_files(Stay& stay, Arrival& arrival, const Living& living, const Plan& plan) {
  return with_context(Finder(stay, arrival, living, plan).find(), "finding the files of the image");
}

}  // namespace relive::rollback
