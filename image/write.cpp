#include "image/write.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <set>
#include <utility>

#include "base/fault.h"
#include "image/files.h"
#include "image/memory.h"
#include "image/parts.h"
#include "image/proto/pagemap.pb.h"
#include "image/threads.h"

namespace relive::image {

namespace {

constexpr std::uint32_t kVersion = 2;
constexpr std::uint32_t kPresent = 4;                  // pb::PageRun.flags
constexpr std::uint32_t kFirstOwnId = 2;               // 1 is whoever restores
constexpr std::size_t kBatch = std::size_t{32} << 20;  // bytes between two calls of progress
constexpr std::size_t kVectors = 512;                  // of one writev
constexpr std::size_t kCopy = std::size_t{1} << 20;    // bytes of a deleted file at a time

bool is_empty(const std::string& path) {
  DIR* const stream = ::opendir(path.c_str());
  if (stream == nullptr) return false;
  std::size_t entries = 0;
  while (::readdir(stream) != nullptr) ++entries;
  ::closedir(stream);
  return entries == 2;  // "." and ".."
}

// A directory that goes away with everything in it, unless it is kept.
class Partial {
 public:
  static Result<Partial> create(const std::string& final_path) {
    std::string path = final_path;
    while (path.size() > 1 && path.ends_with('/')) path.pop_back();
    struct stat seen{};
    if (::lstat(path.c_str(), &seen) == 0) {
      if (!S_ISDIR(seen.st_mode) || !is_empty(path))
        return fail(ErrorKind::usage, fmt::format("{} is there already", path),
                    "name a directory that is not there, or empty");
    }
    std::string partial = path + ".partial";
    if (::mkdir(partial.c_str(), 0700) != 0) {
      if (errno == EEXIST)
        return fail(ErrorKind::usage,
                    fmt::format("{} is there: an image that is being written, or was broken off", partial),
                    "remove it if nobody writes it");
      return fail_errno("mkdir", partial);
    }
    UniqueFd fd(::open(partial.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd) {
      auto failed = fail_errno("open", partial);
      ::rmdir(partial.c_str());
      return failed;
    }
    return Partial(std::move(path), std::move(partial), std::move(fd));
  }
  Partial(Partial&& other) noexcept
      : path_(std::move(other.path_)), partial_(std::exchange(other.partial_, {})), fd_(std::move(other.fd_)) {}
  Partial& operator=(Partial&&) = delete;
  Partial(const Partial&) = delete;
  Partial& operator=(const Partial&) = delete;
  ~Partial() {
    if (partial_.empty()) return;
    const int again = ::openat(fd_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (DIR* const stream = again < 0 ? nullptr : ::fdopendir(again)) {
      while (const dirent* entry = ::readdir(stream)) ::unlinkat(fd_.get(), entry->d_name, 0);
      ::closedir(stream);
    }
    ::rmdir(partial_.c_str());
  }
  [[nodiscard]] int fd() const { return fd_.get(); }
  Result<void> keep() {
    if (::fsync(fd_.get()) != 0) return fail_errno("fsync", partial_);
    if (::rename(partial_.c_str(), path_.c_str()) != 0) return fail_errno("rename", partial_);
    partial_.clear();
    return {};
  }

 private:
  Partial(std::string path, std::string partial, UniqueFd fd)
      : path_(std::move(path)), partial_(std::move(partial)), fd_(std::move(fd)) {}
  std::string path_;
  std::string partial_;  // empty: kept
  UniqueFd fd_;
};

// Pages of a task or of an object, where they are in memory or in a file of ours.
struct Piece {
  std::uint64_t address = 0;
  std::span<const std::byte> bytes;
  int fd = -1;  // else: `size` bytes from `address` on, up to whole pages with zeros
  std::uint64_t size = 0;
  [[nodiscard]] std::uint64_t total() const { return fd < 0 ? bytes.size() : page_ceil(size); }
};

class Writing {
 public:
  Writing(int directory, std::vector<ImagedTask> tasks, const Contents& contents, const Progress& progress)
      : directory_(directory), tasks_(std::move(tasks)), contents_(contents), progress_(progress), files_(parts_) {}

  Result<WriteReport> write() {
    RELIVE_TRY(convert());
    collect();
    RELIVE_TRY(fault_point("image: entries"));
    RELIVE_TRY(write_parts(directory_, parts_));
    RELIVE_TRY(ghosts());
    for (const auto& [number, pieces] : of_objects_) RELIVE_TRY(pagemap(FileKind::shared_pagemap, number, pieces));
    for (const auto& [pid, pieces] : of_tasks_) RELIVE_TRY(pagemap(FileKind::pagemap, pid, pieces));
    RELIVE_TRY(fault_point("image: inventory"));
    RELIVE_TRY(write_inventory(directory_, parts_));
    return report_;
  }

 private:
  // Everything but pages, as entries.
  Result<void> convert() {
    if (tasks_.empty()) return fail(ErrorKind::usage, "an image of no task");
    pb::Inventory& inventory = parts_.inventory;
    inventory.set_version(kVersion);
    inventory.set_fdinfo_per_id(true);
    ids_to({1, 1, 1, 1}, *inventory.mutable_root_ids());
    inventory.set_namespaces_per_id(true);
    inventory.set_security_module(0);
    number_objects();
    for (const ImagedTask& task : tasks_)
      for (const std::uint32_t id : task.file_ids) files_.reserve_file(id);
    std::set<std::int32_t> pids;
    for (const ImagedTask& task : tasks_) pids.insert(task.task.pid.value);
    for (std::size_t i = 0; i < tasks_.size(); ++i) {
      files_.task = i;
      RELIVE_TRY(convert(tasks_[i], pids));
    }
    return {};
  }

  void number_objects() {
    std::uint32_t next = kFirstOwnId;
    for (const ImagedTask& task : tasks_)
      next = std::max(
          {next, task.shared.memory + 1, task.shared.files + 1, task.shared.fs + 1, task.shared.signal_actions + 1});
    for (ImagedTask& task : tasks_) {
      for (std::uint32_t* id : {&task.shared.memory, &task.shared.files, &task.shared.fs, &task.shared.signal_actions})
        if (*id == 0) *id = next;
      ++next;
    }
  }

  static void ids_to(const SharedObjects& shared, pb::ObjectIds& ids) {
    ids.set_memory(shared.memory);
    ids.set_files(shared.files);
    ids.set_fs(shared.fs);
    ids.set_signal_actions(shared.signal_actions);
    // The namespaces are those of whoever restores (docs/images.md).
    std::uint32_t next = 1;
    ids.set_pid_namespace(next++);
    ids.set_net_namespace(next++);
    ids.set_ipc_namespace(next++);
    ids.set_uts_namespace(next++);
    ids.set_time_namespace(next++);
    ids.set_mount_namespace(next++);
    ids.set_user_namespace(next++);
    ids.set_cgroup_namespace(next++);
  }

  Result<void> convert(ImagedTask& task, const std::set<std::int32_t>& pids) {
    const auto pid = static_cast<std::uint32_t>(task.task.pid.value);
    const model::Process& process = task.task.process;
    pb::TreeEntry& entry = parts_.tree.emplace_back();
    entry.set_pid(pid);
    entry.set_parent(pids.contains(process.parent) ? static_cast<std::uint32_t>(process.parent) : 0);
    entry.set_group(static_cast<std::uint32_t>(process.group));
    entry.set_session(static_cast<std::uint32_t>(process.session));
    if (task.state == TaskState::dead || task.state == TaskState::zombie) {
      convert_zombie(task, entry);
      return {};
    }
    if (task.task.threads.empty()) return fail(ErrorKind::refused, fmt::format("task {} has no threads", pid));
    pb::ExtraTask extra;
    for (const model::Thread& thread : task.task.threads) {
      entry.add_threads(static_cast<std::uint32_t>(thread.tid.value));
      pb::Core& core = parts_.cores[static_cast<std::uint32_t>(thread.tid.value)];
      to_entry(thread, core, *extra.add_threads());
    }
    pb::Core& leader = parts_.cores[pid];
    if (!leader.has_x86())
      return fail(ErrorKind::refused, fmt::format("the first thread of task {} has ended", pid),
                  "an image is taken of tasks whose first thread lives");
    to_entry(task, *leader.mutable_task(), extra);
    ids_to(task.shared, parts_.ids[pid]);
    pb::Fs& fs = parts_.fs[pid];
    fs.set_umask(process.umask);
    extra.set_cwd_device(process.cwd.device);
    extra.set_cwd_inode(process.cwd.inode);
    extra.set_root_device(process.root.device);
    extra.set_root_inode(process.root.inode);
    extra.set_executable_device(process.executable_device);
    extra.set_executable_inode(process.executable_inode);
    memory_to(task, files_, objects_, parts_.memories[pid], extra);
    RELIVE_TRY(table_to(task, files_, extra));
    fs.set_cwd(files_.named(process.cwd.path, 0, 0));
    fs.set_root(files_.named(process.root.path, 0, 0));
    parts_.extras[pid] = std::move(extra);
    return {};
  }

  // It has a name in the tree and a status, and nothing else.
  void convert_zombie(const ImagedTask& task, pb::TreeEntry& entry) {
    entry.add_threads(entry.pid());
    pb::Core& core = parts_.cores[entry.pid()];
    begin_core(core);
    to_entry(task, *core.mutable_task(), parts_.extras[entry.pid()]);
  }

  // Where every page is that has to be written.
  void collect() {
    std::map<std::uint32_t, std::vector<const Unnamed*>> wanted;
    for (const Unnamed& unnamed : files_.unnamed)
      if (unnamed.object != 0) wanted[unnamed.object].push_back(&unnamed);
    std::set<std::uint32_t> written;  // memories that several tasks have
    for (std::size_t i = 0; i < tasks_.size(); ++i) {
      const std::vector<Contents::Pages> pages = contents_.pages(i);
      pages_.push_back(pages);
      if (tasks_[i].state == TaskState::dead || tasks_[i].state == TaskState::zombie) continue;
      std::vector<Piece>& own = of_tasks_[static_cast<std::uint32_t>(tasks_[i].task.pid.value)];
      if (!written.insert(tasks_[i].shared.memory).second) continue;
      for (const model::Mapping& mapping : tasks_[i].task.memory.mappings) {
        // Of the kernel's own, CRIU wants the vDSO: it compares it with the one it finds.
        if (mapping.shared || (mapping.source == model::MappingSource::kernel && mapping.name != "[vdso]")) continue;
        for (const Contents::Pages& part : inside(i, mapping.range)) own.push_back({part.address, part.bytes});
      }
    }
    for (const auto& [number, uses] : wanted) of_objects_[number] = object(uses);
    for (const auto& [number, pieces] : of_objects_) count(pieces);
    for (const auto& [pid, pieces] : of_tasks_) count(pieces);
  }

  void count(const std::vector<Piece>& pieces) {
    for (const Piece& piece : pieces) all_ += piece.total();
  }

  // The pages of a task in a range.
  [[nodiscard]] std::vector<Contents::Pages> inside(std::size_t task, AddressRange range) const {
    std::vector<Contents::Pages> found;
    const auto& pages = pages_[task];
    auto at =
        std::ranges::upper_bound(pages, range.begin, {}, [](const auto& p) { return p.address + p.bytes.size(); });
    for (; at != pages.end() && at->address < range.end; ++at) {
      const AddressRange part = AddressRange{at->address, at->address + at->bytes.size()}.intersect(range);
      if (!part.empty()) found.push_back({part.begin, at->bytes.subspan(part.begin - at->address, part.size())});
    }
    return found;
  }

  std::vector<Piece> object(const std::vector<const Unnamed*>& uses) const {
    // A file of ours has all of it.
    for (const Unnamed* use : uses) {
      if (use->mapped) continue;
      if (const int fd = contents_.open_file(use->task, use->index); fd >= 0) return data_of(fd);
    }
    std::map<std::uint64_t, std::span<const std::byte>> by_offset;  // one page each, the mappings may overlap
    for (const Unnamed* use : uses) {
      if (!use->mapped) continue;
      for (const model::Mapping& mapping : tasks_[use->task].task.memory.mappings) {
        if (mapping.range.begin != use->address) continue;
        for (const Contents::Pages& part : inside(use->task, mapping.range))
          for (std::size_t at = 0; at < part.bytes.size(); at += kPageSize)
            by_offset.emplace(part.address + at - mapping.range.begin + mapping.offset,
                              part.bytes.subspan(at, kPageSize));
      }
    }
    std::vector<Piece> pieces;
    for (const auto& [offset, bytes] : by_offset) {
      if (!pieces.empty()) {
        Piece& last = pieces.back();
        if (last.address + last.bytes.size() == offset && last.bytes.data() + last.bytes.size() == bytes.data()) {
          last.bytes = {last.bytes.data(), last.bytes.size() + bytes.size()};
          continue;
        }
      }
      pieces.push_back({offset, bytes});
    }
    return pieces;
  }

  static std::vector<Piece> data_of(int fd) {
    std::vector<Piece> pieces;
    struct stat seen{};
    if (::fstat(fd, &seen) != 0) return pieces;
    off_t position = 0;
    while (position < seen.st_size) {
      const off_t data = ::lseek(fd, position, SEEK_DATA);
      if (data < 0) break;
      const off_t hole = std::max(data + 1, ::lseek(fd, data, SEEK_HOLE));
      const auto begin = std::max(page_floor(static_cast<std::uint64_t>(data)), static_cast<std::uint64_t>(position));
      const auto end = std::min(page_ceil(static_cast<std::uint64_t>(hole)), static_cast<std::uint64_t>(seen.st_size));
      if (end > begin) pieces.push_back({begin, {}, fd, end - begin});
      position = static_cast<off_t>(page_ceil(end));
    }
    return pieces;
  }

  Result<void> advance(std::uint64_t bytes) {
    done_ += bytes;
    since_ += bytes;
    if (since_ < kBatch || !progress_) return {};
    since_ = 0;
    return progress_(done_, all_);
  }

  Result<void> pagemap(FileKind kind, std::uint32_t number, const std::vector<Piece>& pieces) {
    EntryWriter map = RELIVE_TRY(EntryWriter::create(directory_, kind, number));
    const std::uint32_t pages_id = ++last_pages_;
    pb::PagemapHead head;
    head.set_pages_id(pages_id);
    RELIVE_TRY(map.put(head));
    std::uint64_t begin = 0;
    std::uint64_t pages = 0;
    const auto put = [&]() -> Result<void> {
      // CRIU before 4.2 knows the 32-bit field only.
      while (pages != 0) {
        const std::uint64_t part = std::min<std::uint64_t>(pages, std::numeric_limits<std::uint32_t>::max());
        pb::PageRun run;
        run.set_address(begin);
        run.set_old_pages(static_cast<std::uint32_t>(part));
        run.set_flags(kPresent);
        RELIVE_TRY(map.put(run));
        begin += part * kPageSize;
        pages -= part;
      }
      return {};
    };
    for (const Piece& piece : pieces) {
      if (begin + pages * kPageSize != piece.address) {
        RELIVE_TRY(put());
        begin = piece.address;
      }
      pages += piece.total() / kPageSize;
      report_.pages += piece.total() / kPageSize;
    }
    RELIVE_TRY(put());
    RELIVE_TRY(map.finish());
    report_.bytes += map.written();
    RELIVE_TRY(fault_point("image: pages"));
    EntryWriter file = RELIVE_TRY(EntryWriter::create(directory_, FileKind::pages, pages_id));
    RELIVE_TRY(contents_of(file.fd(), pieces));
    return file.finish();
  }

  Result<void> contents_of(int fd, const std::vector<Piece>& pieces) {
    std::vector<iovec> vectors;
    std::size_t bytes = 0;
    const auto flush = [&]() -> Result<void> {
      std::span<iovec> rest = vectors;
      while (!rest.empty()) {
        const ssize_t put = ::writev(fd, rest.data(), static_cast<int>(rest.size()));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return fail_errno("write", "pages");
        auto left = static_cast<std::size_t>(put);
        while (!rest.empty() && left >= rest.front().iov_len) {
          left -= rest.front().iov_len;
          rest = rest.subspan(1);
        }
        if (!rest.empty()) {
          rest.front().iov_base = static_cast<std::byte*>(rest.front().iov_base) + left;
          rest.front().iov_len -= left;
        }
      }
      report_.bytes += bytes;
      RELIVE_TRY(advance(bytes));
      vectors.clear();
      bytes = 0;
      return {};
    };
    for (const Piece& piece : pieces) {
      if (piece.fd >= 0) {
        RELIVE_TRY(flush());
        RELIVE_TRY(copy(piece.fd, piece.address, piece.size, fd));
        constexpr std::array<std::byte, kPageSize> kZeros{};
        RELIVE_TRY(write_all(fd, std::span(kZeros).first(page_ceil(piece.size) - piece.size), "pages"));
        continue;
      }
      std::span<const std::byte> rest = piece.bytes;
      while (!rest.empty()) {
        const auto part = rest.first(std::min(rest.size(), kBatch - bytes));
        vectors.push_back({const_cast<std::byte*>(part.data()), part.size()});
        bytes += part.size();
        rest = rest.subspan(part.size());
        if (bytes >= kBatch || vectors.size() >= kVectors) RELIVE_TRY(flush());
      }
    }
    return flush();
  }

  // Bytes of a file of ours, which must have them.
  Result<void> copy(int from, std::uint64_t offset, std::uint64_t size, int to) {
    std::vector<std::byte> buffer(std::min<std::uint64_t>(size, kCopy));
    while (size > 0) {
      const std::size_t part = std::min<std::uint64_t>(size, buffer.size());
      const ssize_t got = ::pread(from, buffer.data(), part, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return fail_errno("pread", "a file without a name");
      if (got == 0) return fail(ErrorKind::refused, "a file without a name has become shorter while it was written");
      RELIVE_TRY(write_all(to, std::span(buffer).first(static_cast<std::size_t>(got)), "contents"));
      offset += static_cast<std::uint64_t>(got);
      size -= static_cast<std::uint64_t>(got);
      report_.bytes += static_cast<std::uint64_t>(got);
      RELIVE_TRY(advance(static_cast<std::uint64_t>(got)));
    }
    return {};
  }

  // Files whose name is gone.
  Result<void> ghosts() {
    for (const Unnamed& unnamed : files_.unnamed) {
      if (unnamed.ghost == 0) continue;
      const int fd = unnamed.mapped ? contents_.mapped_file(unnamed.task, unnamed.address)
                                    : contents_.open_file(unnamed.task, unnamed.index);
      if (fd < 0)
        return fail(ErrorKind::refused, fmt::format("what was in a deleted file of task {} cannot be read",
                                                    tasks_[unnamed.task].task.pid.value));
      RELIVE_TRY(ghost(unnamed.ghost, fd));
    }
    return {};
  }

  Result<void> ghost(std::uint32_t id, int fd) {
    RELIVE_TRY(fault_point("image: deleted file"));
    struct stat seen{};
    if (::fstat(fd, &seen) != 0) return fail_errno("fstat", "a deleted file");
    EntryWriter out = RELIVE_TRY(EntryWriter::create(directory_, FileKind::ghost, id));
    pb::Ghost entry;
    entry.set_uid(seen.st_uid);
    entry.set_gid(seen.st_gid);
    entry.set_mode(seen.st_mode);
    pb::Time& accessed = *entry.mutable_accessed();
    accessed.set_seconds(static_cast<std::uint64_t>(seen.st_atim.tv_sec));
    accessed.set_microseconds(static_cast<std::uint64_t>(seen.st_atim.tv_nsec / 1000));
    pb::Time& modified = *entry.mutable_modified();
    modified.set_seconds(static_cast<std::uint64_t>(seen.st_mtim.tv_sec));
    modified.set_microseconds(static_cast<std::uint64_t>(seen.st_mtim.tv_nsec / 1000));
    if (!S_ISREG(seen.st_mode)) {
      RELIVE_TRY(out.put(entry));
      return out.finish();
    }
    const std::vector<Piece> data = data_of(fd);
    const bool whole =
        data.size() == 1 && data[0].address == 0 && data[0].size == static_cast<std::uint64_t>(seen.st_size);
    if (!whole && seen.st_size != 0) {
      entry.set_chunks(true);
      entry.set_size(static_cast<std::uint64_t>(seen.st_size));
    }
    RELIVE_TRY(out.put(entry));
    for (const Piece& piece : data) {
      if (entry.chunks()) {
        pb::GhostChunk chunk;
        chunk.set_length(piece.size);
        chunk.set_offset(piece.address);
        RELIVE_TRY(out.put(chunk));
      }
      RELIVE_TRY(out.put_bytes({}));  // the entry goes out before its bytes
      RELIVE_TRY(copy(fd, piece.address, piece.size, out.fd()));
    }
    return out.finish();
  }

  int directory_;
  std::vector<ImagedTask> tasks_;
  const Contents& contents_;
  const Progress& progress_;
  Parts parts_;
  FileWriting files_;
  ObjectNumbers objects_;
  std::vector<std::vector<Contents::Pages>> pages_;         // by task
  std::map<std::uint32_t, std::vector<Piece>> of_tasks_;    // by pid
  std::map<std::uint32_t, std::vector<Piece>> of_objects_;  // by number
  std::uint32_t last_pages_ = 0;
  std::uint64_t all_ = 0;
  std::uint64_t done_ = 0;
  std::uint64_t since_ = 0;
  WriteReport report_;
};

}  // namespace

Result<WriteReport> write_image(const std::string& directory, std::vector<ImagedTask> tasks, const Contents& contents,
                                const Progress& progress) {
  Partial partial = RELIVE_TRY(Partial::create(directory));
  const WriteReport report = RELIVE_TRY(Writing(partial.fd(), std::move(tasks), contents, progress).write());
  RELIVE_TRY(fault_point("image: rename"));
  RELIVE_TRY(partial.keep());
  return report;
}

}  // namespace relive::image
