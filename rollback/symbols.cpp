#include "rollback/symbols.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <span>
#include <string_view>
#include <tuple>

#include "base/unique_fd.h"
#include "diff/pages.h"

namespace relive::rollback {

namespace {

// A file mapped into this process; empty where that is not possible.
class MappedFile {
 public:
  explicit MappedFile(const model::Mapping& mapping) {
    const UniqueFd fd(::open(mapping.name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat status{};
    if (!fd || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode) || status.st_ino != mapping.inode ||
        status.st_size <= 0)
      return;
    const auto size = static_cast<std::size_t>(status.st_size);
    void* at = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (at != MAP_FAILED) bytes_ = {static_cast<const std::byte*>(at), size};
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }

  // `count` values at `offset`; none where the file does not have them.
  template <class T>
  [[nodiscard]] std::vector<T> read(std::uint64_t offset, std::uint64_t count) const {
    if (offset > bytes_.size() || count > (bytes_.size() - offset) / sizeof(T)) return {};
    std::vector<T> values(count);
    if (count != 0) std::memcpy(values.data(), bytes_.data() + offset, count * sizeof(T));
    return values;
  }
  // The text that begins at `offset` and ends, with a zero byte, before `end`.
  [[nodiscard]] std::string_view text(std::uint64_t offset, std::uint64_t end) const {
    if (end > bytes_.size() || offset >= end) return {};
    const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + offset, end - offset);
    const auto zero = rest.find('\0');
    return zero == std::string_view::npos ? std::string_view{} : rest.substr(0, zero);
  }

 private:
  std::span<const std::byte> bytes_;
};

struct Symbol {
  AddressRange range;  // in the task
  std::string name;
};

const Symbol* find(const std::vector<Symbol>& symbols, std::uint64_t address) {
  auto after = std::ranges::upper_bound(symbols, address, {}, [](const Symbol& symbol) { return symbol.range.begin; });
  if (after == symbols.begin()) return nullptr;
  --after;
  return after->range.contains(address) ? &*after : nullptr;
}

void sort(std::vector<Symbol>& symbols) {
  std::ranges::sort(symbols, {}, [](const Symbol& symbol) {
    return std::tuple(symbol.range.begin, symbol.range.end, std::string_view(symbol.name));
  });
  const auto aliases = std::ranges::unique(symbols, {}, [](const Symbol& symbol) { return symbol.range; });
  symbols.erase(aliases.begin(), aliases.end());
}

}  // namespace

struct Symbols::Module {
  explicit Module(const model::Mapping& first) : mapping(first) {}

  model::Mapping mapping;  // the one with the file's begin
  AddressRange span;       // from the first to the last byte of its segments, .bss included
  std::vector<Symbol> variables;
  std::vector<Symbol> functions;
  bool read = false;

  // Where the segments are; false if this is no ELF file.
  bool locate() {
    const MappedFile file(mapping);
    std::uint64_t bias = 0;
    return locate(file, bias);
  }

  bool locate(const MappedFile& file, std::uint64_t& bias) {
    const auto header = file.read<Elf64_Ehdr>(0, 1);
    if (header.empty() || std::memcmp(header[0].e_ident, ELFMAG, SELFMAG) != 0 ||
        header[0].e_ident[EI_CLASS] != ELFCLASS64)
      return false;
    bool first = true;
    span = {};
    for (const auto& segment : file.read<Elf64_Phdr>(header[0].e_phoff, header[0].e_phnum)) {
      if (segment.p_type != PT_LOAD) continue;
      if (first) bias = mapping.range.begin - page_floor(segment.p_vaddr);
      if (first) span.begin = bias + segment.p_vaddr;
      span.end = std::max(span.end, bias + segment.p_vaddr + segment.p_memsz);
      first = false;
    }
    return !first;
  }

  void read_symbols() {
    read = true;
    const MappedFile file(mapping);
    std::uint64_t bias = 0;
    if (!locate(file, bias)) return;
    const auto header = file.read<Elf64_Ehdr>(0, 1);
    const auto sections = file.read<Elf64_Shdr>(header[0].e_shoff, header[0].e_shnum);
    for (const std::uint32_t type : {SHT_SYMTAB, SHT_DYNSYM}) {
      for (const auto& section : sections)
        if (section.sh_type == type && section.sh_link < sections.size())
          add(file, section, sections[section.sh_link], bias);
      if (!variables.empty() || !functions.empty()) break;  // the full table has the dynamic one in it
    }
    sort(variables);
    sort(functions);
  }

  void add(const MappedFile& file, const Elf64_Shdr& table, const Elf64_Shdr& names, std::uint64_t bias) {
    for (const auto& entry : file.read<Elf64_Sym>(table.sh_offset, table.sh_size / sizeof(Elf64_Sym))) {
      const auto type = ELF64_ST_TYPE(entry.st_info);
      if (entry.st_size == 0 || entry.st_shndx == SHN_UNDEF || (type != STT_OBJECT && type != STT_FUNC)) continue;
      const std::string_view name = file.text(names.sh_offset + entry.st_name, names.sh_offset + names.sh_size);
      const std::uint64_t begin = bias + entry.st_value;
      if (!name.empty())
        (type == STT_FUNC ? functions : variables).push_back({{begin, begin + entry.st_size}, std::string(name)});
    }
  }
};

Symbols::Symbols(const model::Memory& memory) {
  for (const auto& mapping : memory.mappings) {
    if (mapping.source != model::MappingSource::file || mapping.offset != 0) continue;
    auto module = std::make_unique<Module>(mapping);
    if (module->locate()) modules_.push_back(std::move(module));
  }
}

Symbols::~Symbols() = default;

Symbols::Module* Symbols::module_of(std::uint64_t address) {
  for (const auto& module : modules_) {
    if (!module->span.contains(address)) continue;
    if (!module->read) module->read_symbols();
    return module.get();
  }
  return nullptr;
}

std::optional<std::string> Symbols::variable(std::uint64_t address) {
  const Module* module = module_of(address);
  const Symbol* symbol = module == nullptr ? nullptr : find(module->variables, address);
  return symbol == nullptr ? std::nullopt : std::optional(symbol->name);
}

std::optional<std::string> Symbols::function(std::uint64_t address) {
  const Module* module = module_of(address);
  const Symbol* symbol = module == nullptr ? nullptr : find(module->functions, address);
  return symbol == nullptr ? std::nullopt : std::optional(symbol->name);
}

namespace {

using Page = std::array<std::uint64_t, kPageSize / sizeof(std::uint64_t)>;

// Compares one page of the task with `stored` (zeros if empty).
void compare_page(const task::FrozenTask& task, std::uint64_t address, std::span<const std::byte> stored,
                  std::vector<std::uint64_t>& words) {
  Page living{};
  Page kept{};
  if (!task.read({address}, std::as_writable_bytes(std::span(living)))) return;
  if (stored.size() == sizeof kept) std::memcpy(kept.data(), stored.data(), sizeof kept);
  for (std::size_t i = 0; i < living.size(); ++i)
    if (living[i] != kept[i]) words.push_back(address + i * sizeof(std::uint64_t));
}

tracking::Ranges zero_filled(const model::Memory& memory) {
  tracking::Ranges ranges;
  for (const auto& mapping : memory.mappings)
    if (mapping.source == model::MappingSource::anonymous && mapping.readable) ranges.push_back(mapping.range);
  return ranges;
}

// "main_arena, errno and 3 more", those with most words first.
std::string list_variables(const std::map<std::string, std::uint64_t>& counts) {
  constexpr std::size_t kShown = 3;
  std::vector<std::pair<std::string, std::uint64_t>> order(counts.begin(), counts.end());
  std::ranges::stable_sort(order, std::greater{}, &std::pair<std::string, std::uint64_t>::second);
  std::string out;
  for (std::size_t i = 0; i < std::min(kShown, order.size()); ++i) out += (i == 0 ? "" : ", ") + order[i].first;
  if (order.size() > kShown) out += fmt::format(" and {} more", order.size() - kShown);
  return out;
}

std::string stack_of(const model::Mapping& mapping, const model::Task& task, Symbols& symbols) {
  std::string out;
  for (const auto& thread : task.threads) {
    if (!mapping.range.contains(thread.registers.rsp)) continue;
    if (!out.empty()) return "stacks of several threads";
    out = fmt::format("stack of thread {} ({})", thread.tid.value, thread.name);
    if (const auto function = symbols.function(thread.registers.rip)) out += " in " + *function;
  }
  return out;
}

std::string variables_in(const model::Mapping& mapping, const std::vector<std::uint64_t>& words, Symbols& symbols) {
  std::map<std::string, std::uint64_t> counts;
  for (auto word = std::ranges::lower_bound(words, mapping.range.begin);
       word != words.end() && *word < mapping.range.end; ++word)
    if (auto name = symbols.variable(*word)) ++counts[*name];
  return list_variables(counts);
}

}  // namespace

std::vector<std::uint64_t> changed_words(parasite::Visit& visit, const tracking::PagePlan& plan,
                                         const tracking::PageStore& store, const model::Memory& memory) {
  std::vector<std::uint64_t> words;
  std::uint64_t compared = 0;
  for (const auto& copy : plan.copies)
    for (std::uint64_t page = 0; page < copy.pages && compared < kMostPagesCompared; ++page, ++compared)
      compare_page(visit.task(), copy.to + page * kPageSize, store.bytes(copy.from + page), words);
  for (const auto& range : tracking::intersect(plan.drops, zero_filled(memory)))
    for (std::uint64_t page = range.begin; page < range.end && compared < kMostPagesCompared;
         page += kPageSize, ++compared)
      compare_page(visit.task(), page, {}, words);
  std::ranges::sort(words);
  return words;
}

void name_pages(std::vector<diff::Difference>& differences, const model::Task& wanted,
                const std::vector<std::uint64_t>& words) {
  Symbols symbols(wanted.memory);
  for (auto& difference : differences) {
    if (difference.family != diff::Family::page) continue;
    const auto mapping = std::ranges::find(wanted.memory.mappings, difference.object, diff::mapping_name);
    if (mapping == wanted.memory.mappings.end()) continue;
    std::string what = stack_of(*mapping, wanted, symbols);
    if (what.empty()) what = variables_in(*mapping, words, symbols);
    if (!what.empty()) difference.text += ": " + what;
  }
}

}  // namespace relive::rollback
