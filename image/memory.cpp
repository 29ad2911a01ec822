#include "image/memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <string_view>
#include <utility>

namespace relive::image {

namespace {

using model::Mapping;
using model::MappingSource;

// pb::Mapping.status
enum Status : std::uint32_t {
  kRegular = 1 << 0,
  kStack = 1 << 1,
  kVsyscall = 1 << 2,
  kVdso = 1 << 3,
  kHeap = 1 << 5,
  kFilePrivate = 1 << 6,
  kFileShared = 1 << 7,
  kAnonymousShared = 1 << 8,
  kAnonymousPrivate = 1 << 9,
  kSystemV = 1 << 10,
  kSocket = 1 << 11,
  kVvar = 1 << 12,
  kAioRing = 1 << 13,
  kMemoryFile = 1 << 14,
  kShadowStack = 1 << 15,
  kGuard = 1 << 16,
  kProbes = 1 << 17,
};

// Advice by number (madvise(2)), and the mark that it leaves.
struct Advice {
  unsigned number;
  bool model::MappingMarks::* mark;
};
constexpr std::array kAdvice{
    Advice{MADV_SEQUENTIAL, &model::MappingMarks::sequential},
    Advice{MADV_RANDOM, &model::MappingMarks::random},
    Advice{MADV_DONTFORK, &model::MappingMarks::dont_fork},
    Advice{MADV_DONTDUMP, &model::MappingMarks::dont_dump},
    Advice{MADV_MERGEABLE, &model::MappingMarks::mergeable},
    Advice{MADV_HUGEPAGE, &model::MappingMarks::huge_page},
    Advice{MADV_NOHUGEPAGE, &model::MappingMarks::no_huge_page},
    Advice{MADV_WIPEONFORK, &model::MappingMarks::wipe_on_fork},
};

// Flags of mmap(2), and the mark that stands for each. CRIU gives them to mmap again.
struct Flag {
  std::uint32_t bit;
  bool model::MappingMarks::* mark;
};
constexpr std::array kFlags{
    Flag{MAP_GROWSDOWN, &model::MappingMarks::grows_down},
    Flag{MAP_LOCKED, &model::MappingMarks::locked},
    Flag{MAP_NORESERVE, &model::MappingMarks::no_reserve},
    Flag{MAP_HUGETLB, &model::MappingMarks::huge_tlb},
};

// pb::ExtraMapping.marks: what has no place in the entry.
constexpr std::array kExtraMarks{
    Flag{1, &model::MappingMarks::lock_on_fault}, Flag{2, &model::MappingMarks::sealed},
    Flag{4, &model::MappingMarks::droppable},     Flag{8, &model::MappingMarks::shadow_stack},
    Flag{16, &model::MappingMarks::io},           Flag{32, &model::MappingMarks::may_write},
};

constexpr std::uint64_t kUserEnd = (std::uint64_t{1} << 47) - kPageSize;  // of x86-64, without 5-level page tables
constexpr std::uint64_t kVsyscallAt = 0xffffffffff600000;
constexpr std::string_view kDeleted = " (deleted)";

std::uint32_t status_of(const Mapping& mapping) {
  const std::uint32_t of_file = mapping.shared ? kFileShared : kFilePrivate;
  switch (mapping.source) {
    case MappingSource::anonymous:
      return kRegular | kAnonymousPrivate | (mapping.name == "[heap]" ? kHeap : 0U);
    case MappingSource::file:
    case MappingSource::deleted_file:
    case MappingSource::device:
      return kRegular | of_file;
    case MappingSource::shared_anonymous:
      return kRegular | kAnonymousShared;
    case MappingSource::memfd:
      return kRegular | kMemoryFile | of_file;
    case MappingSource::sysv:
      return kRegular | kSystemV;
    case MappingSource::kernel:
    case MappingSource::relive:
      if (mapping.name == "[vdso]") return kRegular | kVdso | kAnonymousPrivate;
      if (mapping.name == "[vsyscall]") return kVsyscall | kAnonymousPrivate;
      if (mapping.name == "[uprobes]") return kRegular | kProbes | kAnonymousPrivate;
      return kVvar | kAnonymousPrivate;
  }
  return kRegular;
}

// Two mappings of the kernel, [vvar] and [vvar_vclock] (Linux 6.13), are one to CRIU.
bool goes_on(const Mapping& before, const Mapping& mapping) {
  return before.source == MappingSource::kernel && before.name == "[vvar]" && mapping.name == "[vvar_vclock]" &&
         before.range.end == mapping.range.begin;
}

model::FileIdentity identity_of(const Mapping& mapping) { return {mapping.device, mapping.inode}; }

void source_to(const Mapping& mapping, FileWriting& files, ObjectNumbers& objects, pb::Mapping& to) {
  const std::uint32_t flags = mapping.shared && (mapping.writable || mapping.marks.may_write) ? O_RDWR : O_RDONLY;
  switch (mapping.source) {
    case MappingSource::file:
    case MappingSource::deleted_file:
    case MappingSource::device:
      to.set_object(files.named(mapping.name, flags, mapping.range.begin));
      to.set_file_flags(flags);
      return;
    case MappingSource::memfd: {
      const Unnamed where{
          .ghost = 0, .object = 0, .task = files.task, .mapped = true, .address = mapping.range.begin, .index = 0};
      model::MemoryFile memory;
      memory.size = static_cast<std::int64_t>(mapping.offset + mapping.range.size());
      const std::uint64_t inode = files.memory_inode(identity_of(mapping), mapping.name, memory, where);
      const std::uint32_t id = files.new_file();
      pb::File& file = files.parts.files[id];
      file.set_id(id);
      file.set_type(static_cast<std::uint32_t>(FileType::memory_file));
      pb::MemoryFile& made = *file.mutable_memory_file();
      made.set_id(id);
      made.set_flags(flags);
      made.set_position(0);
      made.set_inode_id(static_cast<std::uint32_t>(inode));
      owner_to({}, *made.mutable_owner());
      to.set_object(id);
      to.set_file_flags(flags);
      return;
    }
    case MappingSource::shared_anonymous:
    case MappingSource::sysv: {
      const auto known = objects.numbers.find(identity_of(mapping));
      const std::uint32_t number = known == objects.numbers.end() ? files.new_object() : known->second;
      objects.numbers.emplace(identity_of(mapping), number);
      to.set_object(number);
      files.unnamed.push_back({.ghost = 0,
                               .object = number,
                               .task = files.task,
                               .mapped = true,
                               .address = mapping.range.begin,
                               .index = 0});
      return;
    }
    case MappingSource::anonymous:
    case MappingSource::kernel:
    case MappingSource::relive:
      return;
  }
}

void mapping_to(const Mapping& mapping, FileWriting& files, ObjectNumbers& objects, pb::Mapping& to) {
  to.set_begin(mapping.range.begin);
  to.set_end(mapping.range.end);
  const bool object = mapping.has_object();
  to.set_offset(object ? mapping.offset : 0);
  to.set_object(0);
  to.set_protection(static_cast<std::uint32_t>(mapping.protection()));
  const bool anonymous = mapping.source == MappingSource::anonymous ||
                         mapping.source == MappingSource::shared_anonymous || mapping.source == MappingSource::kernel;
  std::uint32_t flags = (mapping.shared ? MAP_SHARED : MAP_PRIVATE) | (anonymous ? MAP_ANONYMOUS : 0);
  if (mapping.source != MappingSource::kernel)
    for (const Flag& flag : kFlags)
      if (mapping.marks.*flag.mark) flags |= flag.bit;
  to.set_flags(flags);
  to.set_status(status_of(mapping));
  to.set_fd(-1);
  std::uint64_t advice = 0;
  for (const Advice& one : kAdvice)
    if (mapping.marks.*one.mark) advice |= std::uint64_t{1} << one.number;
  if (advice != 0) to.set_advice(advice);
  source_to(mapping, files, objects, to);
}

void extra_to(const Mapping& mapping, pb::ExtraMapping& to) {
  to.set_begin(mapping.range.begin);
  to.set_end(mapping.range.end);
  if (!mapping.name.empty()) to.set_name(mapping.name);
  if (mapping.device != 0) to.set_device(mapping.device);
  if (mapping.inode != 0) to.set_inode(mapping.inode);
  to.set_source(static_cast<std::uint32_t>(mapping.source));
  std::uint32_t marks = 0;
  for (const Flag& mark : kExtraMarks)
    if (mapping.marks.*mark.mark) marks |= mark.bit;
  if (marks != 0) to.set_marks(marks);
  if (mapping.protection_key != 0) to.set_protection_key(mapping.protection_key);
}

// What an entry says, as far as it goes without the files.
Mapping mapping_from(const pb::Mapping& from) {
  Mapping mapping;
  mapping.range = {from.begin(), from.end()};
  mapping.readable = (from.protection() & PROT_READ) != 0;
  mapping.writable = (from.protection() & PROT_WRITE) != 0;
  mapping.executable = (from.protection() & PROT_EXEC) != 0;
  mapping.shared = (from.flags() & MAP_TYPE) == MAP_SHARED;
  mapping.offset = from.offset();
  for (const Flag& flag : kFlags) mapping.marks.*flag.mark = (from.flags() & flag.bit) != 0;
  for (const Advice& one : kAdvice) mapping.marks.*one.mark = (from.advice() >> one.number & 1) != 0;
  mapping.marks.may_write = mapping.writable || !mapping.shared || (from.file_flags() & O_ACCMODE) == O_RDWR;
  const std::uint32_t status = from.status();
  if ((status & kVsyscall) != 0) {
    mapping.source = MappingSource::kernel;
    mapping.name = "[vsyscall]";
  } else if ((status & kVdso) != 0) {
    mapping.source = MappingSource::kernel;
    mapping.name = "[vdso]";
  } else if ((status & kVvar) != 0) {
    mapping.source = MappingSource::kernel;
    mapping.name = "[vvar]";
  } else if ((status & kProbes) != 0) {
    mapping.source = MappingSource::kernel;
    mapping.name = "[uprobes]";
  } else if ((status & kSystemV) != 0) {
    mapping.source = MappingSource::sysv;
    mapping.shared = true;
  } else if ((status & kAnonymousShared) != 0) {
    mapping.source = MappingSource::shared_anonymous;
    mapping.shared = true;
    mapping.name = "/dev/zero (deleted)";
  } else if ((status & kMemoryFile) != 0) {
    mapping.source = MappingSource::memfd;
  } else if ((status & (kFilePrivate | kFileShared)) != 0) {
    mapping.source = MappingSource::file;
  } else {
    mapping.source = MappingSource::anonymous;
    if ((status & kHeap) != 0) mapping.name = "[heap]";
    if (mapping.marks.grows_down) mapping.name = "[stack]";
  }
  return mapping;
}

class Reading {
 public:
  Reading(const pb::Memory& from, const pb::ExtraTask* extra, const FileReading& files, ImagedTask& task)
      : from_(from),
        extra_(extra),
        files_(files),
        task_(task),
        name_(file_name(FileKind::mm, static_cast<std::uint64_t>(task.task.pid.value))) {}

  std::vector<ObjectUse> read() {
    std::uint64_t before = 0;
    for (const pb::Mapping& entry : from_.mappings()) {
      if (!in_place(entry, before)) continue;
      before = entry.end();
      add(entry);
    }
    return std::move(uses_);
  }

 private:
  void damaged(const pb::Mapping& entry, std::string_view what) {
    files_.findings.damaged(name_, 0, fmt::format("mapping {:x}-{:x} {}", entry.begin(), entry.end(), what));
  }
  void unsupported(const pb::Mapping& entry, std::string_view what) {
    files_.findings.unsupported(name_, 0, fmt::format("mapping {:x}-{:x} {}", entry.begin(), entry.end(), what));
  }

  bool in_place(const pb::Mapping& entry, std::uint64_t before) {
    const auto no = [&](std::string_view what) {
      damaged(entry, what);
      return false;
    };
    if (entry.begin() >= entry.end()) return no("is empty");
    if (entry.begin() % kPageSize != 0 || entry.end() % kPageSize != 0) return no("is not made of whole pages");
    const bool vsyscall =
        entry.begin() == kVsyscallAt && (entry.status() & kVsyscall) != 0 && entry.end() - entry.begin() == kPageSize;
    if (!vsyscall && entry.end() > kUserEnd) return no("reaches into the kernel's addresses");
    if (entry.begin() < before) return no("overlaps the one before it");
    if (entry.offset() % kPageSize != 0) return no("begins within a page of its file");
    if (entry.offset() >> 62 != 0) return no(fmt::format("lies at {:#x} in its file", entry.offset()));
    const std::uint32_t type = entry.flags() & MAP_TYPE;
    if (type != MAP_SHARED && type != MAP_PRIVATE && type != MAP_SHARED_VALIDATE)
      return no("is neither private nor shared");
    if ((entry.protection() & ~static_cast<std::uint32_t>(PROT_READ | PROT_WRITE | PROT_EXEC)) != 0)
      return no(fmt::format("has protection {:#x}", entry.protection()));
    return true;
  }

  void add(const pb::Mapping& entry) {
    Mapping mapping = mapping_from(entry);
    const std::uint32_t status = entry.status();
    if ((status & (kAioRing | kSocket)) != 0) unsupported(entry, "is shared with the kernel (AIO, packet socket)");
    if ((status & kShadowStack) != 0) unsupported(entry, "is a shadow stack");
    if ((status & kProbes) != 0) unsupported(entry, "is of uprobes");
    if (mapping.marks.huge_tlb) unsupported(entry, "is of huge pages");
    std::uint32_t object = 0;
    if (mapping.source == MappingSource::file || mapping.source == MappingSource::memfd) {
      object = file_of(entry, mapping);
    } else if (mapping.source == MappingSource::shared_anonymous || mapping.source == MappingSource::sysv) {
      object = static_cast<std::uint32_t>(entry.object());
      mapping.inode = entry.object();
    }
    const pb::ExtraMapping* const more = add_extra(mapping);
    if (more == nullptr && mapping.source == MappingSource::sysv)
      unsupported(entry, "is System V shared memory of another namespace");
    if (more != nullptr && more->object() != 0 && object == 0) object = more->object();
    if (mapping.name == "[vvar]" && add_halves(mapping)) return;
    if (object != 0) uses_.push_back({object, task_.task.memory.mappings.size()});
    task_.task.memory.mappings.push_back(std::move(mapping));
  }

  // Resolves the file. Returns the shared object that it is, if it is a memfd.
  std::uint32_t file_of(const pb::Mapping& entry, Mapping& mapping) {
    const auto at = files_.parts.files.find(static_cast<std::uint32_t>(entry.object()));
    if (at == files_.parts.files.end() || entry.object() >> 32 != 0) {
      damaged(entry, fmt::format("is of file {}, which is not in {}", entry.object(), file_name(FileKind::files)));
      return 0;
    }
    const pb::File& file = at->second;
    if (file.has_memory_file()) {
      mapping.source = MappingSource::memfd;
      const auto inode = files_.parts.memory_inodes.find(file.memory_file().inode_id());
      if (inode == files_.parts.memory_inodes.end()) {
        damaged(entry, fmt::format("is of memfd {}, which is not in {}", file.memory_file().inode_id(),
                                   file_name(FileKind::memory_files)));
        return 0;
      }
      mapping.inode = inode->second.object();
      // CRIU writes shared memory without a file as a memfd of this name.
      mapping.name = inode->second.name() == "/dev/zero" ? "/dev/zero (deleted)"
                                                         : fmt::format("/memfd:{}{}", inode->second.name(), kDeleted);
      if (inode->second.name() == "/dev/zero" && mapping.shared) mapping.source = MappingSource::shared_anonymous;
      return inode->second.object();
    }
    if (!file.has_regular()) {
      damaged(entry, fmt::format("is of file {}, a {}", entry.object(), type_name(file.type())));
      return 0;
    }
    mapping.name = files_.path_of(file.regular());
    if (mapping.name.ends_with(kDeleted)) {
      mapping.source = MappingSource::deleted_file;
      task_.mapped_ghosts[entry.begin()] = at->first;
    }
    if (mapping.name.starts_with("/dev/") && !mapping.name.starts_with("/dev/shm/"))
      mapping.source = MappingSource::device;
    return 0;
  }

  // Two mappings of the kernel that were written as one.
  bool add_halves(const Mapping& mapping) {
    if (extra_ == nullptr || next_ + 1 >= extra_->mappings_size()) return false;
    const pb::ExtraMapping& first = extra_->mappings(next_);
    const pb::ExtraMapping& second = extra_->mappings(next_ + 1);
    const bool two = first.begin() == mapping.range.begin && first.end() == second.begin() &&
                     second.end() == mapping.range.end && first.begin() < first.end() && first.end() % kPageSize == 0 &&
                     first.end() < mapping.range.end && second.name() == "[vvar_vclock]";
    if (!two) return false;
    Mapping half = mapping;
    half.range.end = first.end();
    task_.task.memory.mappings.push_back(half);
    half.range = {second.begin(), mapping.range.end};
    half.name = second.name();
    task_.task.memory.mappings.push_back(half);
    return true;
  }

  // What only relive tells, where it is about this very mapping; else null.
  const pb::ExtraMapping* add_extra(Mapping& mapping) {
    if (extra_ == nullptr) return nullptr;
    const auto& extras = extra_->mappings();
    while (next_ < extras.size() && extras.Get(next_).begin() < mapping.range.begin) ++next_;
    if (next_ >= extras.size()) return nullptr;
    const pb::ExtraMapping& more = extras.Get(next_);
    if (more.begin() != mapping.range.begin || more.end() != mapping.range.end) return nullptr;
    if (more.source() > static_cast<std::uint32_t>(MappingSource::kernel)) return nullptr;
    Mapping told = mapping;
    told.source = static_cast<MappingSource>(more.source());
    told.name = more.name();
    if (status_of(told) != status_of(mapping)) return nullptr;
    const bool of_file = mapping.source == MappingSource::file || mapping.source == MappingSource::deleted_file ||
                         mapping.source == MappingSource::device;
    if (of_file && mapping.name != told.name) return nullptr;
    mapping.source = told.source;
    mapping.name = told.name;
    mapping.device = more.device();
    mapping.inode = more.inode();
    for (const Flag& mark : kExtraMarks) mapping.marks.*mark.mark = (more.marks() & mark.bit) != 0;
    mapping.protection_key = more.protection_key();
    return &more;
  }

  const pb::Memory& from_;
  const pb::ExtraTask* extra_;
  const FileReading& files_;
  ImagedTask& task_;
  std::string name_;
  std::vector<ObjectUse> uses_;
  int next_ = 0;  // in the extra mappings
};

}  // namespace

void memory_to(const ImagedTask& task, FileWriting& files, ObjectNumbers& objects, pb::Memory& to,
               pb::ExtraTask& extra) {
  const model::Memory& memory = task.task.memory;
  const model::MemoryLayout& layout = memory.layout;
  const model::Process& process = task.task.process;
  to.set_start_code(layout.start_code);
  to.set_end_code(layout.end_code);
  to.set_start_data(layout.start_data);
  to.set_end_data(layout.end_data);
  to.set_start_stack(layout.start_stack);
  to.set_start_brk(layout.start_brk);
  to.set_brk(layout.brk);
  to.set_arg_start(layout.arg_start);
  to.set_arg_end(layout.arg_end);
  to.set_env_start(layout.env_start);
  to.set_env_end(layout.env_end);
  to.set_executable(files.named(process.executable, O_RDONLY, 0));
  for (const std::uint64_t word : task.auxiliary_vector) to.add_auxiliary_vector(word);
  to.set_dumpable(process.dumpable);
  to.set_huge_pages_disabled((process.thp_disable & 1) != 0);
  for (std::size_t i = 0; i < memory.mappings.size(); ++i) {
    const Mapping& mapping = memory.mappings[i];
    pb::ExtraMapping& more = *extra.add_mappings();
    extra_to(mapping, more);
    if (mapping.shared && (mapping.source == MappingSource::file || mapping.source == MappingSource::deleted_file)) {
      more.set_object(files.new_object());
      files.unnamed.push_back({.ghost = 0,
                               .object = more.object(),
                               .task = files.task,
                               .mapped = true,
                               .address = mapping.range.begin,
                               .index = 0});
    }
    if (i > 0 && goes_on(memory.mappings[i - 1], mapping)) {
      to.mutable_mappings(to.mappings_size() - 1)->set_end(mapping.range.end);
      continue;
    }
    mapping_to(mapping, files, objects, *to.add_mappings());
  }
  extra.set_locked_bytes(memory.locked_bytes);
}

std::vector<ObjectUse> memory_from(const pb::Memory& from, const pb::ExtraTask* extra, const FileReading& files,
                                   ImagedTask& task) {
  model::MemoryLayout& layout = task.task.memory.layout;
  layout.start_code = from.start_code();
  layout.end_code = from.end_code();
  layout.start_data = from.start_data();
  layout.end_data = from.end_data();
  layout.start_stack = from.start_stack();
  layout.start_brk = from.start_brk();
  layout.brk = from.brk();
  layout.arg_start = from.arg_start();
  layout.arg_end = from.arg_end();
  layout.env_start = from.env_start();
  layout.env_end = from.env_end();
  const std::string name = file_name(FileKind::mm, static_cast<std::uint64_t>(task.task.pid.value));
  for (const std::uint64_t address :
       {layout.end_code, layout.end_data, layout.start_stack, layout.brk, layout.arg_end, layout.env_end})
    if (address > kUserEnd) files.findings.damaged(name, 0, fmt::format("address {:#x} is the kernel's", address));
  if (layout.start_brk > layout.brk || layout.arg_start > layout.arg_end || layout.env_start > layout.env_end ||
      layout.start_code > layout.end_code || layout.start_data > layout.end_data)
    files.findings.damaged(name, 0, "a part of the layout ends before it begins");
  task.auxiliary_vector.assign(from.auxiliary_vector().begin(), from.auxiliary_vector().end());
  if (from.rings_size() != 0) files.findings.unsupported(name, 0, "has AIO rings");
  model::Process& process = task.task.process;
  process.dumpable = from.dumpable();
  process.thp_disable = from.huge_pages_disabled() ? 1 : 0;
  const auto executable = files.parts.files.find(from.executable());
  if (executable == files.parts.files.end() || !executable->second.has_regular())
    files.findings.damaged(
        name, 0,
        fmt::format("the executable is file {}, which is not in {}", from.executable(), file_name(FileKind::files)));
  else
    process.executable = files.path_of(executable->second.regular());
  if (extra != nullptr) {
    task.task.memory.locked_bytes = extra->locked_bytes();
    process.executable_device = extra->executable_device();
    process.executable_inode = extra->executable_inode();
    if ((extra->thp_disable() & 1) == process.thp_disable) process.thp_disable = extra->thp_disable();
  }
  return Reading(from, extra, files, task).read();
}

}  // namespace relive::image
