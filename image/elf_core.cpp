#include "image/elf_core.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/procfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "image/entries.h"
#include "image/xstate.h"

namespace relive::image {

namespace {

constexpr std::uint32_t kXstateNote = 0x202;     // NT_X86_XSTATE
constexpr std::uint32_t kFileNote = 0x46494c45;  // NT_FILE
constexpr std::size_t kFxsave = 512;
constexpr std::uint64_t kCopy = 1 << 20;
constexpr std::string_view kDeleted = " (deleted)";

// What the core file has of a stretch of memory.
struct Segment {
  const model::Mapping* mapping = nullptr;
  AddressRange range;
  bool here = false;     // with contents; else the debugger has to find them
  std::uint64_t at = 0;  // in the core file
};

class Core {
 public:
  Core(const Image& image, const ImagedTask& task, int fd, const std::string& path)
      : image_(image), task_(task), fd_(fd), path_(path) {}

  Result<void> write() {
    for (const model::Thread& thread : task_.task.threads) add_thread(thread, &thread == &task_.task.threads.front());
    plan();
    const bool many = segments_.size() + 1 >= PN_XNUM;  // then section 0 tells how many there are (elf(5))
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_CORE;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_phoff = sizeof header;
    header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = static_cast<Elf64_Half>(many ? PN_XNUM : segments_.size() + 1);
    const std::uint64_t headers_end = sizeof header + (segments_.size() + 1) * sizeof(Elf64_Phdr);
    const std::uint64_t notes_at = headers_end + (many ? sizeof(Elf64_Shdr) : 0);
    if (many) {
      header.e_shoff = headers_end;
      header.e_shentsize = sizeof(Elf64_Shdr);
      header.e_shnum = 1;
    }
    std::uint64_t at = page_ceil(notes_at + notes_.size());
    for (Segment& segment : segments_) {
      segment.at = at;
      if (segment.here) at += segment.range.size();
    }
    RELIVE_TRY(put(&header, sizeof header));
    Elf64_Phdr note{};
    note.p_type = PT_NOTE;
    note.p_offset = notes_at;
    note.p_filesz = notes_.size();
    RELIVE_TRY(put(&note, sizeof note));
    for (const Segment& segment : segments_) RELIVE_TRY(put_header(segment));
    if (many) {
      Elf64_Shdr section{};
      section.sh_info = static_cast<Elf64_Word>(segments_.size() + 1);
      RELIVE_TRY(put(&section, sizeof section));
    }
    RELIVE_TRY(put(notes_.data(), notes_.size()));
    if (::ftruncate(fd_, static_cast<off_t>(at)) != 0) return fail_errno("ftruncate", path_);
    for (const Segment& segment : segments_)
      if (segment.here) RELIVE_TRY(contents(segment));
    return {};
  }

 private:
  Result<void> put(const void* data, std::size_t size) const {
    return write_all(fd_, {static_cast<const std::byte*>(data), size}, path_);
  }

  void add_note(std::uint32_t type, std::string_view name, std::span<const std::byte> bytes) {
    const auto padded = [this](const void* data, std::size_t size) {
      notes_.append(static_cast<const char*>(data), size);
      notes_.resize((notes_.size() + 3) & ~std::size_t{3});
    };
    const Elf64_Nhdr header{static_cast<Elf64_Word>(name.size() + 1), static_cast<Elf64_Word>(bytes.size()), type};
    notes_.append(reinterpret_cast<const char*>(&header), sizeof header);
    padded(std::string(name).c_str(), name.size() + 1);
    padded(bytes.data(), bytes.size());
  }

  void add_thread(const model::Thread& thread, bool leader) {
    elf_prstatus status{};
    status.pr_pid = thread.tid.value;
    status.pr_ppid = task_.task.process.parent;
    status.pr_pgrp = task_.task.process.group;
    status.pr_sid = task_.task.process.session;
    status.pr_sighold = thread.signal_mask;
    status.pr_fpvalid = 1;
    static_assert(sizeof status.pr_reg == sizeof thread.registers);
    std::memcpy(&status.pr_reg, &thread.registers, sizeof thread.registers);
    add_note(NT_PRSTATUS, "CORE", std::as_bytes(std::span(&status, 1)));
    if (leader) {
      add_process(thread);
      const std::vector<std::uint64_t> vector = auxiliary_vector();
      add_note(NT_AUXV, "CORE", std::as_bytes(std::span(vector)));
      add_files();
    }
    std::vector<std::byte> legacy(thread.xstate.begin(), thread.xstate.begin() + static_cast<std::ptrdiff_t>(std::min(
                                                                                     kFxsave, thread.xstate.size())));
    legacy.resize(kFxsave);
    add_note(NT_FPREGSET, "CORE", legacy);
    if (thread.xstate.size() <= kFxsave) return;
    std::vector<std::byte> whole = thread.xstate;  // debuggers want it up to its end
    whole.resize(std::max<std::size_t>(whole.size(), XstateLayout::of_this_machine().total));
    add_note(kXstateNote, "LINUX", whole);
  }

  void add_process(const model::Thread& leader) {
    elf_prpsinfo info{};
    info.pr_sname = 'R';
    info.pr_pid = task_.task.pid.value;
    info.pr_ppid = task_.task.process.parent;
    info.pr_pgrp = task_.task.process.group;
    info.pr_sid = task_.task.process.session;
    info.pr_uid = leader.credentials.uids[0];
    info.pr_gid = leader.credentials.gids[0];
    leader.name.copy(info.pr_fname, sizeof info.pr_fname - 1);
    task_.task.process.executable.copy(info.pr_psargs, sizeof info.pr_psargs - 1);
    add_note(NT_PRPSINFO, "CORE", std::as_bytes(std::span(&info, 1)));
  }

  [[nodiscard]] std::vector<std::uint64_t> auxiliary_vector() const {
    std::vector<std::uint64_t> words = task_.auxiliary_vector;
    words.insert(words.end(), {AT_NULL, 0});
    return words;
  }

  static bool is_file(const model::Mapping& mapping) {
    return mapping.source == model::MappingSource::file || mapping.source == model::MappingSource::deleted_file;
  }

  // The files that are mapped: how many, the size of a page; begin, end, page of the file for each; their names.
  void add_files() {
    std::vector<std::uint64_t> words{0, kPageSize};
    std::string names;
    for (const model::Mapping& mapping : task_.task.memory.mappings) {
      if (!is_file(mapping)) continue;
      ++words[0];
      words.insert(words.end(), {mapping.range.begin, mapping.range.end, mapping.offset / kPageSize});
      std::string name = mapping.name;
      if (name.ends_with(kDeleted)) name.resize(name.size() - kDeleted.size());
      names += name;
      names += '\0';
    }
    std::string whole(reinterpret_cast<const char*>(words.data()), words.size() * sizeof(std::uint64_t));
    whole += names;
    add_note(kFileNote, "CORE", std::as_bytes(std::span(whole)));
  }

  void plan() {
    for (const model::Mapping& mapping : task_.task.memory.mappings) {
      if (mapping.source == model::MappingSource::kernel) {
        add(mapping, mapping.range, mapping.name == "[vdso]" && !task_.vdso.empty());
        continue;
      }
      const PageRuns pages = within(task_.pages, mapping.range);
      const bool zeros = mapping.source != model::MappingSource::device && !is_file(mapping);
      if (zeros) {
        add(mapping, mapping.range, !pages.empty() || mapping.readable);
        continue;
      }
      std::uint64_t position = mapping.range.begin;
      for (const PageRun& run : pages) {
        add(mapping, {position, run.address}, false);
        add(mapping, run.range(), true);
        position = run.range().end;
      }
      add(mapping, {position, mapping.range.end}, false);
    }
  }

  void add(const model::Mapping& mapping, AddressRange range, bool here) {
    if (range.empty()) return;
    if (!segments_.empty() && segments_.back().mapping == &mapping && segments_.back().here == here &&
        segments_.back().range.end == range.begin) {
      segments_.back().range.end = range.end;
      return;
    }
    segments_.push_back({&mapping, range, here, 0});
  }

  Result<void> put_header(const Segment& segment) const {
    const model::Mapping& mapping = *segment.mapping;
    Elf64_Phdr header{};
    header.p_type = PT_LOAD;
    header.p_flags = (mapping.readable ? PF_R : 0U) | (mapping.writable ? PF_W : 0U) | (mapping.executable ? PF_X : 0U);
    header.p_offset = segment.at;
    header.p_vaddr = segment.range.begin;
    header.p_filesz = segment.here ? segment.range.size() : 0;
    header.p_memsz = segment.range.size();
    header.p_align = kPageSize;
    return put(&header, sizeof header);
  }

  Result<void> contents(const Segment& segment) const {
    const PageRuns& all = segment.mapping->source == model::MappingSource::kernel ? task_.vdso : task_.pages;
    std::vector<std::byte> buffer;
    for (const PageRun& run : within(all, segment.range)) {
      if (run.file == PageRun::kZeros) continue;  // the file has holes there
      for (std::uint64_t page = 0; page < run.pages;) {
        const std::uint64_t part = std::min(run.pages - page, kCopy / kPageSize);
        buffer.resize(part * kPageSize);
        RELIVE_TRY(image_.page_files.read(run, page, buffer));
        const std::uint64_t to = segment.at + (run.address + page * kPageSize - segment.range.begin);
        if (::lseek(fd_, static_cast<off_t>(to), SEEK_SET) < 0) return fail_errno("lseek", path_);
        RELIVE_TRY(put(buffer.data(), buffer.size()));
        page += part;
      }
    }
    return {};
  }

  const Image& image_;
  const ImagedTask& task_;
  int fd_;
  const std::string& path_;
  std::string notes_;
  std::vector<Segment> segments_;
};

}  // namespace

Result<void> write_core(const Image& image, const ImagedTask& task, const std::string& path) {
  if (task.task.threads.empty())
    return fail(ErrorKind::refused, fmt::format("task {} has no threads in the image", task.task.pid.value));
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return fail_errno("create", path);
  auto written = Core(image, task, fd.get(), path).write();
  if (!written) ::unlink(path.c_str());
  return written;
}

}  // namespace relive::image
