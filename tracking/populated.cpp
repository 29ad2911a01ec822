#include "tracking/populated.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include <fmt/format.h>

#include "task/procfs.h"

namespace relive::tracking {

namespace {

constexpr AddressRange kEverything{0, page_floor(~std::uint64_t{0})};
constexpr std::uint64_t kEntriesAtOnce = std::uint64_t{64} << 20;  // bytes of address space per read of pagemap

// The object behind a shared mapping, opened anew (its own position). Invalid where that is not allowed.
UniqueFd open_object(model::Pid pid, const model::Mapping& mapping) {
  auto object = task::open_proc(pid, fmt::format("map_files/{:x}-{:x}", mapping.range.begin, mapping.range.end),
                                O_RDONLY | O_NONBLOCK);
  if (object) return std::move(*object);  // wants CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN
  if (mapping.source != model::MappingSource::file) return {};
  auto named = task::open_proc(pid, "root" + mapping.name, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  struct stat seen{};
  if (!named || ::fstat(named->get(), &seen) != 0 || seen.st_ino != mapping.inode || seen.st_dev != mapping.device)
    return {};
  return std::move(*named);
}

// Data of the object, as addresses in the mapping.
Ranges data_in(const UniqueFd& object, const model::Mapping& mapping) {
  std::vector<AddressRange> out;
  auto position = static_cast<off_t>(mapping.offset);
  const auto end = static_cast<off_t>(mapping.offset + mapping.range.size());
  const auto address_of = [&](off_t offset) {
    return mapping.range.begin + (static_cast<std::uint64_t>(offset) - mapping.offset);
  };
  while (position < end) {
    const off_t data = ::lseek(object.get(), position, SEEK_DATA);
    if (data < 0 || data >= end) break;
    const off_t hole = std::min(end, ::lseek(object.get(), data, SEEK_HOLE));
    if (hole <= data) break;
    out.push_back({page_floor(address_of(data)), page_ceil(address_of(hole))});
    position = hole;
  }
  return normalize(std::move(out));
}

bool readable(model::Pid pid, std::uint64_t address) {
  char byte = 0;
  const iovec here{&byte, 1};
  const iovec there{reinterpret_cast<void*>(address), 1};
  return ::process_vm_readv(pid.value, &here, 1, &there, 1, 0) == 1;
}

// All pages up to the end of the object. The end is where reading begins to fail (SIGBUS for the task itself).
Ranges reachable_in(model::Pid pid, const model::Mapping& mapping) {
  if (!mapping.readable && !mapping.writable) return {mapping.range};
  std::uint64_t good = 0;
  std::uint64_t bad = mapping.range.pages();
  if (readable(pid, mapping.range.end - kPageSize)) return {mapping.range};
  while (bad - good > 0) {
    const std::uint64_t middle = good + (bad - good) / 2;
    if (readable(pid, mapping.range.begin + middle * kPageSize))
      good = middle + 1;
    else
      bad = middle;
  }
  if (good == 0) return {};
  return {{mapping.range.begin, mapping.range.begin + good * kPageSize}};
}

Result<Ranges> anonymous_by_entries(const Pagemap& pagemap, const Ranges& wanted) {
  std::vector<AddressRange> out;
  for (AddressRange rest : wanted) {
    while (!rest.empty()) {
      const AddressRange part{rest.begin, std::min(rest.end, rest.begin + kEntriesAtOnce)};
      const auto entries = RELIVE_TRY(pagemap.entries(part));
      for (std::size_t i = 0; i < entries.size(); ++i) {
        const bool there = (entries[i] & (PagemapBit::present | PagemapBit::swapped)) != 0;
        if (!there || (entries[i] & PagemapBit::file) != 0) continue;
        const std::uint64_t address = part.begin + i * kPageSize;
        if (!out.empty() && out.back().end == address)
          out.back().end += kPageSize;
        else
          out.push_back({address, address + kPageSize});
      }
      rest.begin = part.end;
    }
  }
  return out;
}

Result<Ranges> anonymous_by_scan(const Pagemap& pagemap, const Ranges& spans, std::uint64_t without) {
  if (pagemap.knows_guards()) without |= PageIs::guard;
  const PageQuery query{.inverted = without, .all = without, .any = PageIs::present | PageIs::swapped, .wanted = 0};
  Ranges out;
  for (const PageRegion& region : RELIVE_TRY(pagemap.scan(spans, query))) out.push_back(region.range);
  return normalize(std::move(out));
}

}  // namespace

Care care_of(const model::Mapping& mapping) {
  using Source = model::MappingSource;
  if (mapping.source == Source::kernel || mapping.source == Source::relive) return Care::none;
  if (mapping.marks.io || mapping.marks.huge_tlb || mapping.marks.droppable) return Care::none;
  if (mapping.is_private()) return mapping.source == Source::anonymous ? Care::private_anonymous : Care::private_file;
  if (mapping.source == Source::device) return Care::none;
  return mapping.writable || mapping.marks.may_write ? Care::shared : Care::none;
}

Ranges ranges_with(const model::Memory& memory, std::initializer_list<Care> cares) {
  Ranges out;
  for (const model::Mapping& mapping : memory.mappings)
    if (std::ranges::find(cares, care_of(mapping)) != cares.end()) out.push_back(mapping.range);
  return normalize(std::move(out));
}

Ranges zero_backed(const model::Memory& memory) { return ranges_with(memory, {Care::private_anonymous, Care::shared}); }

Ranges spans_of(const Ranges& wanted, const model::Memory& memory, const parasite::Session& session) {
  std::vector<AddressRange> others = session.own_ranges();
  for (const model::Mapping& mapping : memory.mappings) others.push_back(mapping.range);
  const Ranges avoid = subtract(normalize(std::move(others)), wanted);
  Ranges out;
  std::size_t next = 0;  // in avoid
  for (const AddressRange& range : wanted) {
    const std::uint64_t gap = out.empty() ? 0 : out.back().end;
    while (next < avoid.size() && avoid[next].end <= gap) ++next;
    const bool blocked = next < avoid.size() && avoid[next].begin < range.begin;
    if (out.empty() || blocked)
      out.push_back(range);
    else
      out.back().end = range.end;
  }
  return out;
}

Result<Ranges> populated(parasite::Visit& visit, const Pagemap& pagemap, const model::Memory& memory,
                         const Ranges& within) {
  const Ranges anonymous = intersect(ranges_with(memory, {Care::private_anonymous}), within);
  const Ranges of_files = intersect(ranges_with(memory, {Care::private_file}), within);
  Ranges out;
  if (pagemap.can_scan()) {
    const auto spans = spans_of(anonymous, memory, visit.session());
    out = intersect(anonymous, RELIVE_TRY(anonymous_by_scan(pagemap, spans, PageIs::zero)));
    out = unite(out, RELIVE_TRY(anonymous_by_scan(pagemap, of_files, PageIs::zero | PageIs::file)));
  } else {
    out = RELIVE_TRY(anonymous_by_entries(pagemap, unite(anonymous, of_files)));
  }
  std::vector<AddressRange> shared;
  const model::Pid pid = visit.task().pid();
  std::set<std::uint64_t> closed;  // inodes that could not be opened: of parts of a mapping there are many
  for (const model::Mapping& mapping : memory.mappings) {
    if (care_of(mapping) != Care::shared || intersect({mapping.range}, within).empty()) continue;
    UniqueFd object;
    if (!closed.contains(mapping.inode)) object = open_object(pid, mapping);
    if (!object.valid()) closed.insert(mapping.inode);
    const Ranges data = object.valid() ? data_in(object, mapping) : reachable_in(pid, mapping);
    shared.insert(shared.end(), data.begin(), data.end());
  }
  return unite(out, intersect(normalize(std::move(shared)), within));
}

Result<Ranges> populated(parasite::Visit& visit, const model::Memory& memory, const Ranges& within) {
  return populated(visit, RELIVE_TRY(Pagemap::open(visit.task().pid())), memory, within);
}

Result<Ranges> populated(parasite::Visit& visit, const model::Memory& memory) {
  return populated(visit, memory, {kEverything});
}

}  // namespace relive::tracking
