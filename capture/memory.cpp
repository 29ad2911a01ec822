#include "capture/memory.h"

#include <cpuid.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <optional>

#include "task/procfs.h"

namespace relive::capture {
namespace {

using model::Mapping;
using model::MappingMarks;
using model::MappingSource;

std::unexpected<Error> bad_line(std::string_view line) {
  return fail(ErrorKind::system, fmt::format("a line of the maps text that is none: \"{}\"", line.substr(0, 80)));
}

// Takes a number off the front of `text`, and the character behind it if one is asked for.
template <class T>
std::optional<T> take_number(std::string_view& text, int base, char behind = '\0') {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  if (behind != '\0') {
    if (text.empty() || text.front() != behind) return std::nullopt;
    text.remove_prefix(1);
  }
  return value;
}

std::string_view take_line(std::string_view& text) {
  const auto end = std::min(text.find('\n'), text.size());
  const auto line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return line;
}

std::string_view take_word(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  const auto word = text.substr(0, text.find(' '));
  text.remove_prefix(word.size());
  return word;
}

bool parse_permissions(std::string_view text, Mapping& mapping) {
  if (text.size() != 4) return false;
  constexpr std::string_view letters = "rwx";
  for (std::size_t i = 0; i < letters.size(); ++i) {
    if (text[i] != letters[i] && text[i] != '-') return false;
  }
  if (text[3] != 'p' && text[3] != 's') return false;
  mapping.readable = text[0] == 'r';
  mapping.writable = text[1] == 'w';
  mapping.executable = text[2] == 'x';
  mapping.shared = text[3] == 's';
  return true;
}

// "7f00-7f01 rw-p 00000000 08:01 1234      /usr/bin/x"
Result<Mapping> parse_header(std::string_view line) {
  Mapping mapping;
  std::string_view rest = line;
  const auto begin = take_number<std::uint64_t>(rest, 16, '-');
  const auto end = begin ? take_number<std::uint64_t>(rest, 16, ' ') : std::nullopt;
  if (!end || *begin >= *end || *begin % kPageSize != 0 || *end % kPageSize != 0) return bad_line(line);
  mapping.range = {*begin, *end};
  if (!parse_permissions(take_word(rest), mapping)) return bad_line(line);
  rest.remove_prefix(std::min<std::size_t>(1, rest.size()));
  const auto offset = take_number<std::uint64_t>(rest, 16, ' ');
  const auto major_number = offset ? take_number<std::uint32_t>(rest, 16, ':') : std::nullopt;
  const auto minor_number = major_number ? take_number<std::uint32_t>(rest, 16, ' ') : std::nullopt;
  const auto inode = minor_number ? take_number<std::uint64_t>(rest, 10) : std::nullopt;
  if (!inode) return bad_line(line);
  mapping.device = makedev(*major_number, *minor_number);
  mapping.inode = *inode;
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  mapping.name = rest;
  mapping.source = classify(mapping.name, mapping.inode, mapping.shared);
  if (mapping.has_object()) mapping.offset = *offset;
  mapping.marks.may_write = mapping.source != MappingSource::kernel && (!mapping.shared || mapping.writable);
  mapping.marks.huge_tlb = mapping.name.starts_with("/anon_hugepage");
  return mapping;
}

Result<void> append(std::vector<Mapping>& mappings, Mapping mapping, std::string_view line) {
  if (!mappings.empty() && mapping.range.begin < mappings.back().range.end) return bad_line(line);
  mappings.push_back(std::move(mapping));
  return {};
}

void set_mark(MappingMarks& marks, std::string_view flag) {
  struct Flag {
    std::string_view letters;
    bool MappingMarks::* mark;
  };
  static constexpr Flag flags[] = {
      {"dc", &MappingMarks::dont_fork},     {"dd", &MappingMarks::dont_dump},  {"wf", &MappingMarks::wipe_on_fork},
      {"mg", &MappingMarks::mergeable},     {"hg", &MappingMarks::huge_page},  {"nh", &MappingMarks::no_huge_page},
      {"sr", &MappingMarks::sequential},    {"rr", &MappingMarks::random},     {"lo", &MappingMarks::locked},
      {"lf", &MappingMarks::lock_on_fault}, {"gd", &MappingMarks::grows_down}, {"nr", &MappingMarks::no_reserve},
      {"sl", &MappingMarks::sealed},        {"ht", &MappingMarks::huge_tlb},   {"dp", &MappingMarks::droppable},
      {"ss", &MappingMarks::shadow_stack},  {"io", &MappingMarks::io},         {"pf", &MappingMarks::io},
      {"mw", &MappingMarks::may_write},
  };
  for (const auto& known : flags) {
    if (known.letters == flag) marks.*known.mark = true;
  }
}

// One line below a header of smaps: "VmFlags: rd wr mr mw me ac" or "ProtectionKey:         0"; others are figures.
Result<void> parse_detail(std::string_view line, Mapping& mapping) {
  constexpr std::string_view flags = "VmFlags:";
  constexpr std::string_view key = "ProtectionKey:";
  if (line.starts_with(flags)) {
    mapping.marks = {};
    std::string_view rest = line.substr(flags.size());
    for (auto word = take_word(rest); !word.empty(); word = take_word(rest)) set_mark(mapping.marks, word);
    if (mapping.marks.io && mapping.source != MappingSource::kernel) mapping.source = MappingSource::device;
  } else if (line.starts_with(key)) {
    std::string_view rest = line.substr(key.size());
    std::string_view word = take_word(rest);
    const auto number = take_number<std::uint32_t>(word, 10);
    if (!number) return bad_line(line);
    mapping.protection_key = *number;
  }
  return {};
}

std::uint64_t locked_bytes(std::string_view status) {
  std::string_view field = task::status_field(status, "VmLck");
  return take_number<std::uint64_t>(field, 10).value_or(0) * 1024;
}

Result<model::MemoryLayout> read_layout(parasite::Visit& visit) {
  const std::string stat = RELIVE_TRY(visit.task().stat());
  model::MemoryLayout layout = RELIVE_TRY(parse_layout(stat));
  layout.brk = static_cast<std::uint64_t>(RELIVE_TRY(visit.syscall("brk 0", SYS_brk, {0})));
  return layout;
}

bool processor_has_keys() {
  constexpr unsigned kFeatures = 7, kOspke = 1U << 4;  // CPUID: structured features, ECX
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(kFeatures, 0, &a, &b, &c, &d) != 0 && (c & kOspke) != 0;
}

// Has some of this memory a key, or does the task have one to give?
Result<bool> uses_keys(parasite::Visit& visit, const std::vector<Mapping>& mappings) {
  const auto has_key = [](const Mapping& mapping) {
    return mapping.protection_key != 0 ||
           (mapping.protection() == PROT_EXEC && mapping.source != MappingSource::kernel);
  };
  return std::ranges::any_of(mappings, has_key) || RELIVE_TRY(settable_keys(visit)).count() > 1;
}

// The identity by which the kernel names a file in a maps text. It is not always what fstat(2) says: below overlayfs
// and btrfs the devices differ. So where they do, the file is mapped and looked up.
Result<model::Mapping> identity_when_mapped(int fd) {
  void* page = ::mmap(nullptr, kPageSize, PROT_NONE, MAP_PRIVATE, fd, 0);
  if (page == MAP_FAILED) return fail_errno("mmap", "a file to be identified");
  const auto text = task::read_proc(model::Pid{::getpid()}, "maps");
  ::munmap(page, kPageSize);
  const auto mappings = RELIVE_TRY(parse_maps(RELIVE_TRY(text)));
  const auto address = reinterpret_cast<std::uint64_t>(page);
  const auto found =
      std::ranges::find_if(mappings, [&](const Mapping& mapping) { return mapping.range.contains(address); });
  if (found == mappings.end()) return fail(ErrorKind::system, "a mapping of ours is not in our maps text");
  return *found;
}

Result<bool> is_file_of(int fd, const Mapping& mapping) {
  struct stat seen{};
  if (::fstat(fd, &seen) != 0) return fail_errno("fstat", mapping.name);
  if (seen.st_ino == mapping.inode && seen.st_dev == mapping.device) return true;
  if (!S_ISREG(seen.st_mode)) return false;
  const auto mapped = identity_when_mapped(fd);
  return mapped && mapped->inode == mapping.inode && mapped->device == mapping.device;
}

// The kernel writes a line feed in a path as "\012".
std::string unescaped(std::string_view name) {
  std::string path;
  while (!name.empty()) {
    const auto escape = std::min(name.find("\\012"), name.size());
    path.append(name.substr(0, escape));
    if (escape < name.size()) path.push_back('\n');
    name.remove_prefix(std::min(escape + 4, name.size()));
  }
  return path;
}

int open_flags(const Mapping& mapping) {
  return (model::needs_writable_file(mapping) ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY;
}

// An open file of the task's own that is the mapping's object: a memfd or a deleted file that it still has open.
std::optional<UniqueFd> borrow_own_descriptor(parasite::Visit& visit, const Mapping& mapping) {
  std::error_code error;
  std::filesystem::directory_iterator entries(fmt::format("/proc/{}/fd", visit.task().pid().value), error);
  for (; !error && entries != std::filesystem::directory_iterator{}; entries.increment(error)) {
    const std::string name = entries->path().filename().string();
    std::string_view digits = name;
    const auto number = take_number<int>(digits, 10);
    if (!number) continue;
    auto borrowed = visit.task().borrow(model::RemoteFd{*number});
    struct stat seen{};
    if (!borrowed || ::fstat(borrowed->get(), &seen) != 0 || seen.st_ino != mapping.inode ||
        seen.st_dev != mapping.device)
      continue;
    // Opened anew: the task's own description would keep its locks (design, section 8).
    const std::string link = fmt::format("/proc/self/fd/{}", borrowed->get());
    if (UniqueFd fd(::open(link.c_str(), open_flags(mapping) | O_NONBLOCK)); fd.valid()) return fd;
  }
  return std::nullopt;
}

std::optional<UniqueFd> hold_file(parasite::Visit& visit, const Mapping& mapping) {
  const auto link =
      fmt::format("/proc/{}/map_files/{:x}-{:x}", visit.task().pid().value, mapping.range.begin, mapping.range.end);
  if (UniqueFd fd(::open(link.c_str(), open_flags(mapping))); fd.valid()) return fd;
  if (mapping.source == MappingSource::file) {
    if (auto fd = open_mapped_file(visit.task().pid(), mapping)) return std::move(*fd);
  }
  return borrow_own_descriptor(visit, mapping);
}

bool can_be_held(const Mapping& mapping) {
  return mapping.has_object() && mapping.source != MappingSource::device && mapping.source != MappingSource::sysv &&
         mapping.source != MappingSource::relive;
}

}  // namespace

MappingSource classify(std::string_view name, std::uint64_t inode, bool shared) {
  constexpr std::string_view deleted = " (deleted)";
  for (const std::string_view kernel : {"[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]"}) {
    if (name == kernel) return MappingSource::kernel;
  }
  if (name.starts_with("[anon_shmem:")) return MappingSource::shared_anonymous;
  if (name.empty() || name.starts_with('['))
    return inode == 0 && !shared ? MappingSource::anonymous : MappingSource::device;
  if (!name.starts_with('/')) return MappingSource::device;  // anon_inode:[io_uring], socket:[123]
  if (name.starts_with("/[aio]")) return MappingSource::device;
  if (name == "/dev/zero (deleted)") return MappingSource::shared_anonymous;
  if (name.starts_with("/memfd:")) return MappingSource::memfd;
  if (name.starts_with("/SYSV") && name.ends_with(deleted)) return MappingSource::sysv;
  if (name.starts_with("/dev/") && !name.starts_with("/dev/shm/") && !name.starts_with("/dev/hugepages/"))
    return MappingSource::device;
  return name.ends_with(deleted) ? MappingSource::deleted_file : MappingSource::file;
}

Result<std::vector<Mapping>> parse_maps(std::string_view maps_text) {
  std::vector<Mapping> mappings;
  mappings.reserve(maps_text.size() / 60);
  while (!maps_text.empty()) {
    const auto line = take_line(maps_text);
    RELIVE_TRY(append(mappings, RELIVE_TRY(parse_header(line)), line));
  }
  return mappings;
}

Result<std::vector<Mapping>> parse_smaps(std::string_view smaps_text) {
  std::vector<Mapping> mappings;
  while (!smaps_text.empty()) {
    const auto line = take_line(smaps_text);
    if (!line.empty() && line.front() >= 'A' && line.front() <= 'Z') {  // addresses are in small letters
      if (mappings.empty()) return bad_line(line);
      RELIVE_TRY(parse_detail(line, mappings.back()));
    } else {
      RELIVE_TRY(append(mappings, RELIVE_TRY(parse_header(line)), line));
    }
  }
  return mappings;
}

Result<model::MemoryLayout> parse_layout(std::string_view stat_text) {
  model::MemoryLayout layout;
  struct Field {
    int number;
    std::uint64_t model::MemoryLayout::* value;
  };
  static constexpr Field fields[] = {
      {26, &model::MemoryLayout::start_code},  {27, &model::MemoryLayout::end_code},
      {28, &model::MemoryLayout::start_stack}, {45, &model::MemoryLayout::start_data},
      {46, &model::MemoryLayout::end_data},    {47, &model::MemoryLayout::start_brk},
      {48, &model::MemoryLayout::arg_start},   {49, &model::MemoryLayout::arg_end},
      {50, &model::MemoryLayout::env_start},   {51, &model::MemoryLayout::env_end},
  };
  for (const auto& field : fields) {
    std::string_view text = RELIVE_TRY(task::stat_field(stat_text, field.number));
    const auto number = take_number<std::uint64_t>(text, 10);
    if (!number) return fail(ErrorKind::system, fmt::format("field {} of the stat text is no number", field.number));
    layout.*field.value = *number;
  }
  return layout;
}

std::vector<Mapping> without(std::vector<Mapping> mappings, const std::vector<AddressRange>& ranges) {
  for (const auto& range : ranges) {
    const bool touched =
        std::ranges::any_of(mappings, [&](const Mapping& mapping) { return mapping.range.overlaps(range); });
    if (!touched) continue;
    std::vector<Mapping> kept;
    kept.reserve(mappings.size());
    for (auto& mapping : mappings) {
      if (!mapping.range.overlaps(range)) {
        kept.push_back(std::move(mapping));
        continue;
      }
      if (mapping.range.begin < range.begin) kept.push_back(mapping.cut({mapping.range.begin, range.begin}));
      if (range.end < mapping.range.end) kept.push_back(mapping.cut({range.end, mapping.range.end}));
    }
    mappings = std::move(kept);
  }
  return mappings;
}

std::vector<Mapping> carry_marks(const std::vector<Mapping>& mappings, const std::vector<Mapping>& before) {
  std::vector<Mapping> result;
  result.reserve(mappings.size());
  auto old = before.begin();
  for (const auto& mapping : mappings) {
    std::uint64_t at = mapping.range.begin;
    while (at < mapping.range.end) {
      while (old != before.end() && old->range.end <= at) ++old;
      const bool inside = old != before.end() && old->range.contains(at);
      const std::uint64_t border = old == before.end() ? mapping.range.end : inside ? old->range.end : old->range.begin;
      Mapping piece = mapping.cut({at, std::min(border, mapping.range.end)});
      if (inside && model::same_object(piece, *old, at)) {
        piece.marks = old->marks;
        piece.protection_key = old->protection_key;
      }
      at = piece.range.end;
      result.push_back(std::move(piece));
    }
  }
  return model::merged(std::move(result));
}

Result<std::string> read_maps(parasite::Visit& visit) { return task::read_proc(visit.task().pid(), "maps"); }

Result<model::Memory> read_memory(parasite::Visit& visit) {
  model::Memory memory;
  const std::string text = RELIVE_TRY(task::read_proc(visit.task().pid(), "smaps"));
  memory.mappings = without(RELIVE_TRY(parse_smaps(text)), visit.session().own_ranges());
  memory.layout = RELIVE_TRY(read_layout(visit));
  memory.locked_bytes = locked_bytes(RELIVE_TRY(task::read_proc(visit.task().pid(), "status")));
  return memory;
}

Result<model::Memory> read_memory_again(parasite::Visit& visit, const model::Memory& before,
                                        std::string_view before_text, std::string_view maps_text) {
  const std::uint64_t locked = locked_bytes(RELIVE_TRY(visit.task().status(visit.driver())));
  if (locked != 0 || before.locked_bytes != 0) return read_memory(visit);
  model::Memory memory;
  memory.mappings =
      maps_text == before_text
          ? before.mappings
          : carry_marks(without(RELIVE_TRY(parse_maps(maps_text)), visit.session().own_ranges()), before.mappings);
  if (processor_has_keys() && RELIVE_TRY(uses_keys(visit, memory.mappings))) return read_memory(visit);
  memory.layout = RELIVE_TRY(read_layout(visit));
  return memory;
}

Result<std::bitset<16>> settable_keys(parasite::Visit& visit) {
  std::bitset<16> keys{1};
  if (!processor_has_keys()) return keys;
  // pkey_mprotect(2) looks at the key before it looks whether anything is mapped there; nothing ever is.
  constexpr std::uint64_t kNowhere = std::uint64_t{1} << 63;
  parasite::Program probe;
  for (std::size_t key = 0; key < keys.size(); ++key)
    probe.syscall(fmt::format("is protection key {} allocated", key), SYS_pkey_mprotect,
                  {kNowhere, kPageSize, PROT_NONE, key}, parasite::Program::OnError::go_on);
  RELIVE_TRY(visit.run(probe));
  for (std::size_t key = 1; key < keys.size(); ++key) keys.set(key, probe.result(key) == -ENOMEM);
  return keys;
}

Result<UniqueFd> open_mapped_file(model::Pid pid, const Mapping& mapping) {
  const auto path = fmt::format("/proc/{}/root{}", pid.value, unescaped(mapping.name));
  UniqueFd fd(::open(path.c_str(), open_flags(mapping) | O_NONBLOCK));
  if (!fd.valid()) {
    return fail(ErrorKind::refused,
                fmt::format("{} is mapped in the snapshot and cannot be opened: {}", mapping.name, ::strerror(errno)));
  }
  if (!RELIVE_TRY(is_file_of(fd.get(), mapping))) {
    return fail(ErrorKind::refused, fmt::format("{} is mapped in the snapshot and is another file now", mapping.name));
  }
  return fd;
}

Result<void> hold_mapped_files(parasite::Visit& visit, const model::Memory& memory, Holds& holds) {
  for (const auto& mapping : memory.mappings) {
    if (!can_be_held(mapping) || model::hold_key(memory, mapping) != mapping.range.begin) continue;
    if (auto fd = hold_file(visit, mapping)) holds.mapped_files.insert_or_assign(mapping.range.begin, std::move(*fd));
  }
  const model::Pid pid = visit.task().pid();
  if (auto executable = task::open_proc(pid, "exe", O_PATH)) holds.executable = *std::move(executable);
  const std::string vector = RELIVE_TRY(task::read_proc(pid, "auxv"));
  const auto bytes = std::as_bytes(std::span(vector));
  holds.auxiliary_vector.assign(bytes.begin(), bytes.end());
  return {};
}

}  // namespace relive::capture
