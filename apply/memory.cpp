#include "apply/memory.h"

#include <fmt/format.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <cerrno>
#include <fstream>
#include <map>
#include <optional>
#include <utility>

#include "apply/segment.h"
#include "base/fault.h"
#include "capture/memory.h"

namespace relive::apply {
namespace {

using diff::Lock;
using diff::LockRange;
using diff::MakeMapping;
using diff::Mark;
using diff::MarkRange;
using diff::MemoryPiece;
using diff::MemoryPlan;
using model::Mapping;
using model::MappingSource;
using model::RemoteFd;
using parasite::Program;
using tracking::Ranges;

// Constants of newer kernel headers than Debian 12's.
constexpr int kDroppable = 0x08;         // MAP_DROPPABLE, Linux 6.11
constexpr long kSysMseal = 462;          // Linux 6.10
constexpr int kPopulateRead = 22;        // MADV_POPULATE_READ, Linux 5.14
constexpr int kPopulateWrite = 23;       // MADV_POPULATE_WRITE, Linux 5.14
constexpr int kDontNeedLocked = 24;      // MADV_DONTNEED_LOCKED, Linux 5.18
constexpr int kSetVma = 0x53564d41;      // PR_SET_VMA, Linux 5.17
constexpr int kMostMappingsPerStep = 3;  // mremap(2) wants that many in reserve

constexpr std::uint64_t number(int value) { return static_cast<std::uint64_t>(static_cast<std::uint32_t>(value)); }
constexpr std::uint64_t number(RemoteFd fd) { return number(fd.value); }

std::string at_text(AddressRange range) { return fmt::format("{:x}-{:x}", range.begin, range.end); }

Lock lock_of(const model::MappingMarks& marks) {
  return !marks.locked ? Lock::none : marks.lock_on_fault ? Lock::on_fault : Lock::locked;
}

// The pages of `mapping` at which the object behind `fd` has data.
Ranges data_of(int fd, const Mapping& mapping) {
  std::vector<AddressRange> data;
  const auto end = static_cast<off_t>(mapping.offset + mapping.range.size());
  for (auto at = static_cast<off_t>(mapping.offset); at < end;) {
    const off_t begin = ::lseek(fd, at, SEEK_DATA);
    if (begin < 0 || begin >= end) break;
    at = std::min(end, ::lseek(fd, begin, SEEK_HOLE));
    if (at <= begin) break;
    const auto address = [&](off_t offset) {
      return mapping.range.begin + (static_cast<std::uint64_t>(offset) - mapping.offset);
    };
    data.push_back({page_floor(address(begin)), page_ceil(address(at))});
  }
  return tracking::normalize(std::move(data));
}

// A system call of the task.
struct Call {
  long number = 0;
  std::array<std::uint64_t, 6> arguments{};
};

// Steps of prepare, gathered and run as one program: a step costs a microsecond, a visit to the task ten.
class Steps {
 public:
  explicit Steps(Workshop& workshop) : workshop_(workshop) {}

  Result<void> take(const std::string& what, std::optional<Call> inverse, Call call) {
    if (inverse) {
      const auto& a = inverse->arguments;
      RELIVE_TRY(workshop_.visit.record_undo("undo: " + what, inverse->number, {a[0], a[1], a[2], a[3], a[4], a[5]}));
    }
    if (auto passed = fault_point(what); !passed) {
      RELIVE_TRY(run());  // so that the steps before this one have been taken
      return passed;
    }
    const auto& a = call.arguments;
    gathered_.syscall(what, call.number, {a[0], a[1], a[2], a[3], a[4], a[5]});
    return {};
  }

  Result<void> run() {
    if (gathered_.empty()) return {};
    auto result = workshop_.visit.run(gathered_);
    gathered_.clear();
    return result;
  }

 private:
  Workshop& workshop_;
  Program gathered_;
};

// A stretch of memory in which one protection is to be set.
struct Rights {
  AddressRange range;
  int protection = 0;
  std::uint32_t key = 0;
  bool keyed = false;  // `key` is to be set too; else it stays, or is the one of execute-only memory
  bool operator==(const Rights&) const = default;
};

void add(std::vector<Rights>& all, Rights rights) {
  if (!all.empty() && all.back().range.end == rights.range.begin && all.back().protection == rights.protection &&
      all.back().key == rights.key && all.back().keyed == rights.keyed) {
    all.back().range.end = rights.range.end;
  } else {
    all.push_back(rights);
  }
}

Call protect_call(const Rights& rights) {
  return {rights.keyed ? SYS_pkey_mprotect : SYS_mprotect,
          {rights.range.begin, rights.range.size(), number(rights.protection), rights.key}};
}

std::string protect_text(const Rights& rights) { return fmt::format("mprotect {}", at_text(rights.range)); }

Result<std::uint64_t> most_mappings() {
  std::ifstream file("/proc/sys/vm/max_map_count");
  std::uint64_t count = 0;
  if (!(file >> count)) return fail(ErrorKind::system, "/proc/sys/vm/max_map_count cannot be read");
  return count;
}

// What is written where: pages from the store, and zeros. A page of shared memory that no map knows is a page of zeros
// (tracking/populated.h); of private memory, one that its backing gives.
class Contents {
 public:
  Contents(const MemoryPlan& plan, const tracking::PagePlan& pages) : pages_(pages) {
    for (const auto& copy : pages.copies) copied_.push_back({copy.to, copy.to + copy.pages * kPageSize});
    std::vector<AddressRange> shared;
    for (const auto& piece : plan.pieces) {
      if (piece.wanted != nullptr && piece.wanted->shared) shared.push_back(piece.range);
    }
    zeros_ = tracking::intersect(pages.drops, tracking::normalize(std::move(shared)));
    drops_ = tracking::subtract(pages.drops, zeros_);
    written_ = tracking::unite(copied_, zeros_);
  }

  // An object that comes back brings what was written to it since: `ranges`, where no page is copied, become zeros.
  void add_zeros(const Ranges& ranges) {
    zeros_ = tracking::unite(zeros_, tracking::subtract(ranges, copied_));
    written_ = tracking::unite(copied_, zeros_);
  }

  [[nodiscard]] const tracking::PagePlan& pages() const { return pages_; }
  [[nodiscard]] const Ranges& zeros() const { return zeros_; }
  [[nodiscard]] const Ranges& drops() const { return drops_; }
  [[nodiscard]] const Ranges& written() const { return written_; }

 private:
  const tracking::PagePlan& pages_;
  Ranges copied_;
  Ranges zeros_;
  Ranges drops_;
  Ranges written_;
};

// Calls `visit(piece, part)` for every part of `ranges` in a wanted piece. Both ascend: one walk.
template <class Visitor>
Result<void> for_each_part(const std::vector<MemoryPiece>& pieces, const Ranges& ranges, Visitor visitor) {
  auto piece = pieces.begin();
  for (const auto& range : ranges) {
    while (piece != pieces.end() && piece->range.end <= range.begin) ++piece;
    for (auto inner = piece; inner != pieces.end() && inner->range.begin < range.end; ++inner) {
      if (inner->wanted != nullptr) RELIVE_TRY(visitor(*inner, inner->range.intersect(range)));
    }
  }
  return {};
}

class MemoryWork {
 public:
  MemoryWork(Workshop& workshop, const MemoryPlan& plan, const tracking::PagePlan& pages)
      : workshop_(workshop), plan_(plan), contents_(plan, pages), steps_(workshop) {}

  Result<void> prepare() {
    RELIVE_TRY(check_room());
    RELIVE_TRY(keep_clear());
    RELIVE_TRY(probe_seals());
    RELIVE_TRY(release_locks());
    RELIVE_TRY(open_objects());
    RELIVE_TRY(move_kernel_mappings());
    RELIVE_TRY(make_mappings());
    RELIVE_TRY(grant_rights());
    RELIVE_TRY(take_locks());
    RELIVE_TRY(set_layout());
    return probe_files();
  }

  Result<void> commit(const SlotAddress& address_in_task) {
    for (const auto& op : operations<diff::UnmapRange>()) {
      workshop_.commit.syscall(fmt::format("munmap {}", at_text(op->range)), SYS_munmap,
                               {op->range.begin, op->range.size()});
    }
    for (const auto& made : made_) {
      const AddressRange target = made.make->mapping.range;
      if (made.place == target.begin) continue;
      workshop_.commit.syscall(fmt::format("mremap {:x} -> {}", made.place, at_text(target)), SYS_mremap,
                               {made.place, target.size(), target.size(), MREMAP_MAYMOVE | MREMAP_FIXED, target.begin});
    }
    for (const auto& [op, place] : set_aside_)
      workshop_.commit.syscall(fmt::format("mremap {} -> {:x}", op->name, op->to), SYS_mremap,
                               {place, op->from.size(), op->from.size(), MREMAP_MAYMOVE | MREMAP_FIXED, op->to});
    RELIVE_TRY(commit_contents(address_in_task));
    for (const auto& rights : final_rights_) {
      const auto& [call, a] = protect_call(rights);
      workshop_.commit.syscall(protect_text(rights), call, {a[0], a[1], a[2], a[3]});
    }
    return commit_names_and_marks();
  }

 private:
  struct Made {
    const MakeMapping* make;
    std::uint64_t place;  // where it is made
  };

  template <class Operation>
  [[nodiscard]] std::vector<const Operation*> operations() const {
    std::vector<const Operation*> result;
    for (const auto& operation : plan_.operations) {
      if (const auto* op = std::get_if<Operation>(&operation)) result.push_back(op);
    }
    return result;
  }

  // ---- prepare

  // Each operation may cut what it touches out of a larger mapping.
  Result<void> check_room() {
    if (plan_.operations.empty() && !needs_rights()) return {};
    const auto living = static_cast<std::uint64_t>(
        std::ranges::count_if(plan_.pieces, [](const MemoryPiece& piece) { return piece.living != nullptr; }));
    const std::uint64_t need =
        living + workshop_.visit.session().own_ranges().size() + kMostMappingsPerStep * (plan_.operations.size() + 4);
    const std::uint64_t most = RELIVE_TRY(most_mappings());
    if (need <= most) return {};
    return fail(ErrorKind::refused,
                fmt::format("up to {} mappings are needed on the way and the limit is {}", need, most),
                "raise vm.max_map_count");
  }

  [[nodiscard]] bool needs_rights() const {
    return std::ranges::any_of(plan_.pieces, [&](const MemoryPiece& piece) {
      return piece.kept && !piece.living->writable && is_written(piece.range);
    });
  }

  Result<void> keep_clear() {
    std::vector<AddressRange> ranges;
    for (const auto* make : operations<MakeMapping>()) ranges.push_back(make->mapping.range);
    for (const auto* move : operations<diff::MoveKernelMapping>())
      ranges.push_back({move->to, move->to + move->from.size()});
    for (const AddressRange& range : ranges)
      for (const auto& own : workshop_.visit.session().own_ranges())
        if (own.overlaps(range))
          return fail(ErrorKind::refused,
                      fmt::format("mapping {} lies where relive's own memory is now", at_text(range)));
    workshop_.visit.keep_clear(ranges, {});
    return {};
  }

  // mprotect(2) to what is there already changes nothing, but fails on what is sealed (mseal(2), Linux 6.10).
  Result<void> probe_seals() {
    for (const auto& piece : plan_.pieces) {
      if (piece.living == nullptr || piece.living->protection_key != 0) continue;
      const bool changes =
          piece.wanted == nullptr || !piece.kept || piece.wanted->protection() != piece.living->protection();
      if (!changes) continue;
      RELIVE_TRY(
          steps_.take(fmt::format("is {} free to change", at_text(piece.range)), std::nullopt,
                      {SYS_mprotect, {piece.range.begin, piece.range.size(), number(piece.living->protection())}}));
    }
    auto free = steps_.run();
    if (free || free.error().errno_value != EPERM) return free;
    return fail(ErrorKind::refused, free.error().what, "the memory is sealed (mseal(2))");
  }

  // Locked on fault here, which only counts against the limit; the commit brings the pages in (mlock(2) says ENOMEM
  // where it cannot, in unreadable memory, and has locked it all the same).
  Result<void> change_lock(AddressRange range, Lock from, Lock to) {
    const auto what = fmt::format("{} {}", to == Lock::none ? "munlock" : "mlock", at_text(range));
    const Call inverse{from == Lock::none ? SYS_munlock : SYS_mlock2,
                       {range.begin, range.size(), number(from == Lock::on_fault ? MLOCK_ONFAULT : 0)}};
    const Call call{to == Lock::none ? SYS_munlock : SYS_mlock2, {range.begin, range.size(), number(MLOCK_ONFAULT)}};
    return steps_.take(what, inverse, call);
  }

  // First what frees room under RLIMIT_MEMLOCK, then (take_locks) what needs it.
  Result<void> release_locks() {
    for (const auto* op : operations<LockRange>()) {
      if (op->to == Lock::none) RELIVE_TRY(change_lock(op->range, op->from, op->to));
    }
    return {};
  }

  Result<void> take_locks() {
    for (const auto& piece : plan_.pieces) {
      if (piece.wanted == nullptr) continue;
      const Lock wanted = lock_of(piece.wanted->marks);
      if (wanted == Lock::none) continue;
      if (wanted == Lock::locked && (!piece.kept || lock_of(piece.living->marks) != wanted))
        relock_.push_back(piece.range);
      if (piece.kept) {
        const Lock living = lock_of(piece.living->marks);
        if (living != wanted) RELIVE_TRY(change_lock(piece.range, living, wanted));
      } else if (const Made* made = find_made(piece.range)) {
        const std::uint64_t begin = made->place + (piece.range.begin - made->make->mapping.range.begin);
        RELIVE_TRY(change_lock({begin, begin + piece.range.size()}, Lock::none, wanted));
      }
    }
    return {};
  }

  [[nodiscard]] const Made* find_made(AddressRange range) const {
    const auto found =
        std::ranges::find_if(made_, [&](const Made& made) { return made.make->mapping.range.contains(range.begin); });
    return found == made_.end() ? nullptr : &*found;
  }

  // Protection while the work goes on: the wanted one, and write access where pages are written.
  [[nodiscard]] int working_protection(const Mapping& wanted, bool written) const {
    return wanted.protection() | (written ? PROT_READ | PROT_WRITE : 0);
  }

  [[nodiscard]] bool is_written(AddressRange range) const {
    const auto& written = contents_.written();
    const auto first = std::ranges::upper_bound(written, range.begin, {}, &AddressRange::end);
    return first != written.end() && first->begin < range.end;
  }

  // Out of the way of whatever is to lie there; the commit moves them to where they belong.
  Result<void> move_kernel_mappings() {
    for (const auto* op : operations<diff::MoveKernelMapping>()) {
      const std::uint64_t size = op->from.size();
      const std::uint64_t place = RELIVE_TRY(workshop_.visit.spare_range(size)).value;
      constexpr std::uint64_t kThere = MREMAP_MAYMOVE | MREMAP_FIXED;
      RELIVE_TRY(steps_.take(fmt::format("mremap {} to {:x}", op->name, place),
                             Call{SYS_mremap, {place, size, size, kThere, op->from.begin}},
                             {SYS_mremap, {op->from.begin, size, size, kThere, place}}));
      set_aside_.emplace_back(op, place);
    }
    return {};
  }

  Result<void> make_mappings() {
    for (const auto* make : operations<MakeMapping>()) {
      if (make->in_place) RELIVE_TRY(make_mapping(*make, make->mapping.range.begin));
    }
    for (const auto* make : operations<MakeMapping>()) {
      if (!make->in_place)
        RELIVE_TRY(make_mapping(*make, RELIVE_TRY(workshop_.visit.spare_range(make->mapping.range.size())).value));
    }
    return {};
  }

  Result<void> make_mapping(const MakeMapping& make, std::uint64_t place) {
    const Mapping& mapping = make.mapping;
    const int protection = working_protection(mapping, is_written(mapping.range));
    const auto what = fmt::format("mmap {} at {:x}", model::mapping_text(mapping), place);
    const Call inverse{SYS_munmap, {place, mapping.range.size()}};
    made_.push_back({&make, place});
    if (protection != mapping.protection()) add(final_rights_, {mapping.range, mapping.protection(), 0});

    if (!mapping.has_object())
      return steps_.take(
          what, inverse,
          {SYS_mmap, {place, mapping.range.size(), number(protection), number(map_flags(mapping)), ~0ULL, 0}});
    if (const auto fd = given_.find(make.hold_key); fd != given_.end()) {
      return steps_.take(what, inverse,
                         {SYS_mmap,
                          {place, mapping.range.size(), number(protection), number(map_flags(mapping)),
                           number(fd->second), mapping.offset}});
    }
    const std::uint64_t twin = make.twin != 0 ? make.twin : RELIVE_TRY(part_of_object(mapping));
    RELIVE_TRY(steps_.take(what, inverse,
                           {SYS_mremap, {twin, 0, mapping.range.size(), MREMAP_MAYMOVE | MREMAP_FIXED, place}}));
    return steps_.take(fmt::format("mprotect {:x}", place), std::nullopt,
                       {SYS_mprotect, {place, mapping.range.size(), number(protection)}});
  }

  static int map_flags(const Mapping& mapping) {
    int flags = MAP_FIXED_NOREPLACE;
    if (mapping.marks.droppable) {
      flags |= kDroppable;
    } else {
      flags |= mapping.shared ? MAP_SHARED : MAP_PRIVATE;
    }
    if (!mapping.has_object()) flags |= MAP_ANONYMOUS;
    if (mapping.marks.no_reserve) flags |= MAP_NORESERVE;
    if (mapping.marks.grows_down) flags |= MAP_GROWSDOWN;
    return flags;
  }

  Result<void> open_objects() {
    std::vector<AddressRange> stale;
    for (const auto* make : operations<MakeMapping>()) {
      if (!make->mapping.has_object()) continue;
      const int fd = RELIVE_TRY(open_object(*make));
      if (!make->mapping.shared || tracking::intersect(plan_.made, {make->mapping.range}).empty()) continue;
      if (fd >= 0) {
        const Ranges data = data_of(fd, make->mapping);
        stale.insert(stale.end(), data.begin(), data.end());
      } else if (make->twin != 0 || lives_on(make->mapping) || make->mapping.source == MappingSource::sysv) {
        stale.push_back(make->mapping.range);
      }
    }
    contents_.add_zeros(tracking::normalize(std::move(stale)));
    return {};
  }

  // Gives the task a descriptor, for as long as the work goes on, of the file that is to be mapped. Returns ours; -1:
  // there is none, but the memory can be had from where it is mapped now, or made anew.
  Result<int> open_object(const MakeMapping& make) {
    if (const auto ours = ours_.find(make.hold_key); ours != ours_.end()) return ours->second;
    const auto held = workshop_.holds.mapped_files.find(make.hold_key);
    if (held != workshop_.holds.mapped_files.end()) return give(make.hold_key, held->second.get());
    if (make.mapping.source == MappingSource::file) {
      auto opened = capture::open_mapped_file(workshop_.visit.task().pid(), make.mapping);
      if (opened) {
        opened_.push_back(std::move(*opened));
        return give(make.hold_key, opened_.back().get());
      }
      if (make.twin == 0) return std::unexpected(std::move(opened).error());
    }
    if (make.twin != 0 || make.mapping.source == MappingSource::shared_anonymous ||
        make.mapping.source == MappingSource::sysv)
      return -1;
    return fail(
        ErrorKind::refused,
        fmt::format("mapping {}: what it mapped is gone and could not be held", model::mapping_text(make.mapping)),
        "a keeper with CAP_CHECKPOINT_RESTORE holds mapped files that have no name");
  }

  Result<int> give(std::uint64_t key, int fd) {
    const RemoteFd spare = RELIVE_TRY(workshop_.visit.spare_descriptor());
    RELIVE_TRY(workshop_.visit.record_undo(fmt::format("close {}", spare.value), SYS_close, {number(spare)}));
    RELIVE_TRY(fault_point("give a mapped file"));
    RELIVE_TRY(workshop_.visit.give(fd, spare));
    workshop_.cleanup.syscall(fmt::format("close {}", spare.value), SYS_close, {number(spare)},
                              Program::OnError::go_on);
    given_.emplace(key, spare);
    ours_.emplace(key, fd);
    return fd;
  }

  static bool same_shared(const Mapping& a, const Mapping& b) {
    return a.source == MappingSource::shared_anonymous && a.source == b.source && a.inode == b.inode &&
           a.device == b.device;
  }

  [[nodiscard]] bool lives_on(const Mapping& mapping) const {
    return std::ranges::any_of(plan_.pieces, [&](const MemoryPiece& piece) {
      return piece.living != nullptr && same_shared(*piece.living, mapping);
    });
  }

  // Shared anonymous memory that nobody holds, and of which this part is mapped nowhere any more. An address at which
  // it is mapped for as long as the work goes on: either the object lives on in an earlier part of it, which a longer
  // duplicate of that reaches; or it is gone, and all wanted mappings of it become parts of the same new one.
  Result<std::uint64_t> part_of_object(const Mapping& mapping) {
    if (mapping.source == MappingSource::sysv) return part_of_segment(mapping);
    if (lives_on(mapping)) return part_of_living_object(mapping);
    const std::pair key{mapping.device, mapping.inode};
    if (const auto known = objects_.find(key); known != objects_.end()) return known->second + mapping.offset;
    std::uint64_t size = 0;
    for (const auto& piece : plan_.pieces) {
      if (piece.wanted != nullptr && same_shared(*piece.wanted, mapping))
        size = std::max(size, piece.wanted->offset + piece.wanted->range.size());
    }
    constexpr int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    const std::uint64_t place = RELIVE_TRY(scratch(size));
    RELIVE_TRY(steps_.take(fmt::format("mmap shared anonymous {} at {:x}", model::size_text(size), place),
                           Call{SYS_munmap, {place, size}},
                           {SYS_mmap, {place, size, PROT_READ | PROT_WRITE, number(flags), ~0ULL, 0}}));
    workshop_.notes.push_back(fmt::format("mapping {}: made anew; other tasks that shared it do not share the new one",
                                          model::mapping_text(mapping)));
    objects_.emplace(key, place);
    return place + mapping.offset;
  }

  // System V shared memory that the task has detached from: attached for as long as the work goes on.
  Result<std::uint64_t> part_of_segment(const Mapping& mapping) {
    const std::pair key{mapping.device, mapping.inode};
    if (const auto known = objects_.find(key); known != objects_.end()) return known->second + mapping.offset;
    std::uint64_t size = 0;
    bool writes = false;
    for (const auto& piece : plan_.pieces) {
      if (piece.wanted == nullptr || !is_same_segment(*piece.wanted, mapping)) continue;
      size = std::max(size, piece.wanted->offset + piece.wanted->range.size());
      writes = writes || piece.wanted->writable || is_written(piece.range);
    }
    Segment segment = RELIVE_TRY(find_or_make_segment(mapping, size, workshop_.visit.task().pid()));
    const std::uint64_t place = RELIVE_TRY(scratch(segment.size()));
    RELIVE_TRY(
        steps_.take(fmt::format("shmat {} at {:x}", segment.id(), place), Call{SYS_munmap, {place, segment.size()}},
                    {SYS_shmat, {number(segment.id()), place, writes ? std::uint64_t{0} : std::uint64_t{SHM_RDONLY}}}));
    RELIVE_TRY(steps_.run());
    if (segment.is_new())
      workshop_.notes.push_back(
          fmt::format("mapping {}: the segment had gone and was made anew, removed as soon as it "
                      "is detached",
                      model::mapping_text(mapping)));
    objects_.emplace(key, place);
    return place + mapping.offset;
  }
  static bool is_same_segment(const Mapping& a, const Mapping& b) {
    return a.source == MappingSource::sysv && a.source == b.source && a.inode == b.inode && a.device == b.device;
  }

  Result<std::uint64_t> part_of_living_object(const Mapping& mapping) {
    const auto reaches = [&](const MemoryPiece& piece) {
      if (piece.living == nullptr || !same_shared(*piece.living, mapping)) return false;
      const model::MappingMarks& marks = piece.living->marks;  // a duplicate has them too
      return piece.living->offset <= mapping.offset && !marks.locked && !marks.sealed && !marks.huge_page &&
             !marks.no_huge_page && marks.no_reserve == mapping.marks.no_reserve;
    };
    const auto earlier = std::ranges::find_if(plan_.pieces, reaches);
    if (earlier == plan_.pieces.end()) {
      return fail(ErrorKind::refused,
                  fmt::format("mapping {}: a part of shared memory that is no longer mapped and could not be held",
                              model::mapping_text(mapping)),
                  "a keeper with CAP_CHECKPOINT_RESTORE holds shared memory");
    }
    const Mapping& living = *earlier->living;
    const std::uint64_t ahead = mapping.offset - living.offset;
    const std::uint64_t size = ahead + mapping.range.size();
    const std::uint64_t place = RELIVE_TRY(scratch(size));
    RELIVE_TRY(steps_.take(fmt::format("mremap a duplicate of {:x} to {:x}", living.range.begin, place),
                           Call{SYS_munmap, {place, size}},
                           {SYS_mremap, {living.range.begin, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, place}}));
    return place + ahead;
  }

  // Addresses that are mapped from prepare to cleanup.
  Result<std::uint64_t> scratch(std::uint64_t size) {
    const std::uint64_t place = RELIVE_TRY(workshop_.visit.spare_range(size)).value;
    workshop_.cleanup.syscall(fmt::format("munmap {:x}", place), SYS_munmap, {place, size}, Program::OnError::go_on);
    return place;
  }

  // The key of execute-only memory comes with PROT_EXEC (capture::settable_keys).
  Result<Rights> rights(Rights wanted) {
    if (!wanted.keyed || wanted.key == 0 || RELIVE_TRY(can_set_key(wanted.key))) return wanted;
    if (wanted.protection == PROT_EXEC) return Rights{wanted.range, PROT_EXEC, 0, false};
    return fail(ErrorKind::refused,
                fmt::format("memory at {} is under protection key {}", at_text(wanted.range), wanted.key),
                "the key was freed since (pkey_free(2))");
  }

  Result<bool> can_set_key(std::uint32_t key) {
    if (!settable_keys_) settable_keys_ = RELIVE_TRY(capture::settable_keys(workshop_.visit));
    return key < settable_keys_->size() && settable_keys_->test(key);
  }

  // Rights are given now, which may fail, and taken in the commit, which may not.
  Result<void> grant_rights() {
    std::vector<Rights> before;
    std::vector<Rights> granted;
    for (const auto& piece : plan_.pieces) {
      if (!piece.kept || piece.wanted->source == MappingSource::kernel) continue;
      const Mapping& wanted = *piece.wanted;
      const Mapping& living = *piece.living;
      const bool written = is_written(piece.range);
      const bool same = wanted.protection() == living.protection() && wanted.protection_key == living.protection_key;
      if (same && !written) continue;
      const bool keyed = wanted.protection_key != 0 || living.protection_key != 0;
      const Rights last = RELIVE_TRY(rights({piece.range, wanted.protection(), wanted.protection_key, keyed}));
      const Rights now = RELIVE_TRY(rights({piece.range, living.protection(), living.protection_key, keyed}));
      // While the work goes on no protection key stands in the way of the copying.
      const Rights working = written ? Rights{piece.range, working_protection(wanted, written), 0, keyed} : last;
      const bool grants = (working.protection & ~now.protection) != 0 || working.key != now.key;
      if (grants) {
        add(before, now);
        add(granted, working);
      }
      if (last != (grants ? working : now)) add(final_rights_, last);
    }
    for (const auto& rights : before) {
      const auto& [call, a] = protect_call(rights);
      RELIVE_TRY(workshop_.visit.record_undo("undo: " + protect_text(rights), call, {a[0], a[1], a[2], a[3]}));
    }
    for (const auto& rights : granted)
      RELIVE_TRY(steps_.take(protect_text(rights), std::nullopt, protect_call(rights)));
    return {};
  }

  // prctl(PR_SET_MM, PR_SET_MM_MAP): no capability is asked for while exe_fd is -1 (kernel/sys.c, prctl_set_mm_map;
  // tried as an ordinary user on 6.18). Needs CONFIG_CHECKPOINT_RESTORE, which every distribution has.
  Result<void> set_layout() {
    for (const auto* op : operations<diff::SetLayout>()) {
      const std::uint64_t to = RELIVE_TRY(put_layout(op->to, workshop_.holds.auxiliary_vector));
      const std::uint64_t from = RELIVE_TRY(put_layout(op->from, {}));
      RELIVE_TRY(steps_.take("prctl PR_SET_MM_MAP",
                             Call{SYS_prctl, {PR_SET_MM, PR_SET_MM_MAP, from, sizeof(prctl_mm_map), 0}},
                             {SYS_prctl, {PR_SET_MM, PR_SET_MM_MAP, to, sizeof(prctl_mm_map), 0}}));
    }
    return {};
  }

  // Without an auxiliary vector the task keeps the one that it has.
  Result<std::uint64_t> put_layout(const model::MemoryLayout& layout, std::span<const std::byte> auxiliary_vector) {
    prctl_mm_map map{};
    map.start_code = layout.start_code;
    map.end_code = layout.end_code;
    map.start_data = layout.start_data;
    map.end_data = layout.end_data;
    map.start_brk = layout.start_brk;
    map.brk = layout.brk;
    map.start_stack = layout.start_stack;
    map.arg_start = layout.arg_start;
    map.arg_end = layout.arg_end;
    map.env_start = layout.env_start;
    map.env_end = layout.env_end;
    map.exe_fd = ~0U;
    if (!auxiliary_vector.empty()) {
      map.auxv = reinterpret_cast<__u64*>(RELIVE_TRY(workshop_.visit.arena().put(auxiliary_vector)).value);
      map.auxv_size = static_cast<__u32>(auxiliary_vector.size());
    }
    return RELIVE_TRY(workshop_.visit.arena().put_value(map)).value;
  }

  // Writing behind the end of a file, or into a hole of a full file system, is a SIGBUS: asked for here as an error.
  Result<void> probe_files() {
    RELIVE_TRY(steps_.run());
    RELIVE_TRY(for_each_part(
        plan_.pieces, contents_.written(), [&](const MemoryPiece& piece, AddressRange part) -> Result<void> {
          const Mapping& wanted = *piece.wanted;
          if (!wanted.has_object() || wanted.source == MappingSource::shared_anonymous) return {};
          const std::uint64_t reaches = wanted.offset + (part.end - wanted.range.begin);
          if (!wanted.shared && reaches <= held_bytes(wanted)) return {};
          std::uint64_t begin = part.begin;
          if (const Made* made = piece.kept ? nullptr : find_made(part))
            begin = made->place + (part.begin - made->make->mapping.range.begin);
          const auto what = fmt::format("is {} long enough for {}", wanted.name, at_text(part));
          return steps_.take(
              what, std::nullopt,
              {SYS_madvise, {begin, part.size(), number(wanted.shared ? kPopulateWrite : kPopulateRead)}});
        }));
    auto long_enough = steps_.run();
    if (long_enough || long_enough.error().errno_value != EFAULT) return long_enough;
    return fail(ErrorKind::refused, long_enough.error().what,
                "the file was truncated since, or its file system is full");
  }

  // How much of a held file can be mapped, in whole pages; 0 if it is not held.
  std::uint64_t held_bytes(const Mapping& mapping) {
    if (hold_keys_.empty()) {
      for (const auto& piece : plan_.pieces) {
        if (piece.wanted != nullptr && piece.wanted->has_object())
          hold_keys_.try_emplace(file_key(*piece.wanted), piece.wanted->range.begin);
      }
    }
    const auto held = workshop_.holds.mapped_files.find(hold_keys_.at(file_key(mapping)));
    struct stat seen{};
    if (held == workshop_.holds.mapped_files.end() || ::fstat(held->second.get(), &seen) != 0) return 0;
    return page_ceil(static_cast<std::uint64_t>(seen.st_size));
  }

  using FileKey = std::array<std::uint64_t, 3>;
  static FileKey file_key(const Mapping& mapping) {
    return {mapping.device, mapping.inode, model::needs_writable_file(mapping) ? std::uint64_t{1} : 0};
  }

  // ---- commit

  Result<void> commit_contents(const SlotAddress& address_in_task) {
    // Zeros first: one object may be mapped twice, and be known by one of the two mappings only.
    RELIVE_TRY(for_each_part(
        plan_.pieces, contents_.zeros(), [&](const MemoryPiece& piece, AddressRange part) -> Result<void> {
          if (piece.wanted->source == MappingSource::shared_anonymous && !piece.wanted->marks.locked) {
            advise("MADV_REMOVE", part, MADV_REMOVE, Program::OnError::stop);
          } else {
            workshop_.commit.add(fmt::format("zero {}", at_text(part)), wire::Kind::fill_zero,
                                 {part.begin, part.size()});
          }
          return {};
        }));
    std::vector<wire::CopyRun> runs;
    runs.reserve(contents_.pages().copies.size());
    for (const auto& copy : contents_.pages().copies)
      runs.push_back({copy.to, address_in_task(copy.from).value, copy.pages * kPageSize});
    if (!runs.empty()) {
      const auto address = RELIVE_TRY(workshop_.visit.arena().put(std::as_bytes(std::span(runs))));
      workshop_.commit.add(fmt::format("copy {} runs of pages", runs.size()), wire::Kind::copy_runs,
                           {address.value, runs.size()});
    }
    RELIVE_TRY(for_each_part(plan_.pieces, contents_.drops(),
                             [&](const MemoryPiece& piece, AddressRange part) -> Result<void> {
                               if (piece.wanted->marks.locked) {
                                 advise("MADV_DONTNEED_LOCKED", part, kDontNeedLocked, Program::OnError::stop);
                                 if (!piece.wanted->marks.lock_on_fault) relock_.push_back(part);
                               } else {
                                 advise("MADV_DONTNEED", part, MADV_DONTNEED, Program::OnError::stop);
                               }
                               return {};
                             }));
    for (const auto* op : operations<diff::DropRange>())
      advise("MADV_DONTNEED", op->range, MADV_DONTNEED, Program::OnError::go_on);
    // Locked memory is present.
    for (const auto& range : relock_) {
      workshop_.commit.syscall(fmt::format("mlock {}", at_text(range)), SYS_mlock, {range.begin, range.size()},
                               Program::OnError::go_on);
    }
    return {};
  }

  void advise(std::string_view what, AddressRange range, int advice, Program::OnError on_error) {
    workshop_.commit.syscall(fmt::format("{} {}", what, at_text(range)), SYS_madvise,
                             {range.begin, range.size(), number(advice)}, on_error);
  }

  static int advice(const MarkRange& op) {
    switch (op.mark) {
      case Mark::dont_fork:
        return op.on ? MADV_DONTFORK : MADV_DOFORK;
      case Mark::dont_dump:
        return op.on ? MADV_DONTDUMP : MADV_DODUMP;
      case Mark::wipe_on_fork:
        return op.on ? MADV_WIPEONFORK : MADV_KEEPONFORK;
      case Mark::mergeable:
        return op.on ? MADV_MERGEABLE : MADV_UNMERGEABLE;
      case Mark::huge_page:
        return MADV_HUGEPAGE;
      case Mark::no_huge_page:
        return MADV_NOHUGEPAGE;
      case Mark::sequential:
        return op.on ? MADV_SEQUENTIAL : MADV_NORMAL;
      case Mark::random:
        return op.on ? MADV_RANDOM : MADV_NORMAL;
      case Mark::sealed:
        break;
    }
    return MADV_NORMAL;
  }

  // A mark that the kernel does not take is no reason to leave a task half way: the program goes on.
  Result<void> commit_names_and_marks() {
    for (const auto* op : operations<diff::NameRange>()) {
      std::uint64_t name = 0;
      if (!op->name.empty()) {
        name = RELIVE_TRY(workshop_.visit.arena().put(std::as_bytes(std::span(op->name.c_str(), op->name.size() + 1))))
                   .value;
      }
      workshop_.commit.syscall(fmt::format("name {}", at_text(op->range)), SYS_prctl,
                               {kSetVma, 0, op->range.begin, op->range.size(), name}, Program::OnError::go_on);
    }
    for (const auto& op : restated_marks(plan_.pieces, barriers()))
      advise("madvise", op.range, advice(op), Program::OnError::go_on);
    for (const auto* op : operations<MarkRange>()) {
      if (op->mark == Mark::sealed) {
        workshop_.commit.syscall(fmt::format("mseal {}", at_text(op->range)), kSysMseal,
                                 {op->range.begin, op->range.size(), 0}, Program::OnError::go_on);
      }
    }
    return {};
  }

  // madvise(2) ends at the first mapping that does not take the advice, and relive's own memory has marks of its own.
  [[nodiscard]] Ranges barriers() const {
    std::vector<AddressRange> ranges = workshop_.visit.session().own_ranges();
    for (const auto& piece : plan_.pieces) {
      if (piece.wanted == nullptr) continue;
      const Mapping& wanted = *piece.wanted;
      if (wanted.source == MappingSource::kernel || wanted.source == MappingSource::device || wanted.marks.droppable)
        ranges.push_back(piece.range);
    }
    return tracking::normalize(std::move(ranges));
  }

  Workshop& workshop_;
  const MemoryPlan& plan_;
  Contents contents_;
  Steps steps_;
  std::vector<Made> made_;
  std::vector<std::pair<const diff::MoveKernelMapping*, std::uint64_t>> set_aside_;
  std::vector<Rights> final_rights_;
  std::optional<std::bitset<16>> settable_keys_;
  std::map<std::uint64_t, RemoteFd> given_;  // by hold key: in the task
  std::map<std::uint64_t, int> ours_;        // the same files, here
  std::vector<UniqueFd> opened_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t>
      objects_;                                 // device and inode -> where the new one is mapped
  std::map<FileKey, std::uint64_t> hold_keys_;  // as model::hold_key
  Ranges relock_;                               // to be brought in by the commit
};

}  // namespace

Result<void> prepare_memory(Workshop& workshop, const MemoryPlan& plan, const tracking::PagePlan& pages,
                            const SlotAddress& address_in_task) {
  MemoryWork work(workshop, plan, pages);
  RELIVE_TRY(with_context(work.prepare(), "preparing memory"));
  return with_context(work.commit(address_in_task), "preparing memory");
}

std::vector<MarkRange> restated_marks(const std::vector<MemoryPiece>& pieces, const Ranges& barriers) {
  struct Statement {
    Mark mark;
    bool on;
    bool (*applies)(const model::MappingMarks&);
  };
  static constexpr Statement statements[] = {
      {Mark::dont_fork, false, [](const model::MappingMarks& m) { return !m.dont_fork; }},
      {Mark::dont_fork, true, [](const model::MappingMarks& m) { return m.dont_fork; }},
      {Mark::dont_dump, false, [](const model::MappingMarks& m) { return !m.dont_dump; }},
      {Mark::dont_dump, true, [](const model::MappingMarks& m) { return m.dont_dump; }},
      {Mark::wipe_on_fork, false, [](const model::MappingMarks& m) { return !m.wipe_on_fork; }},
      {Mark::wipe_on_fork, true, [](const model::MappingMarks& m) { return m.wipe_on_fork; }},
      {Mark::mergeable, false, [](const model::MappingMarks& m) { return !m.mergeable; }},
      {Mark::mergeable, true, [](const model::MappingMarks& m) { return m.mergeable; }},
      {Mark::sequential, false, [](const model::MappingMarks& m) { return !m.sequential && !m.random; }},
      {Mark::sequential, true, [](const model::MappingMarks& m) { return m.sequential; }},
      {Mark::random, true, [](const model::MappingMarks& m) { return m.random; }},
      {Mark::huge_page, true, [](const model::MappingMarks& m) { return m.huge_page; }},
      {Mark::no_huge_page, true, [](const model::MappingMarks& m) { return m.no_huge_page; }},
  };
  std::vector<MarkRange> result;
  for (const auto& statement : statements) {
    auto barrier = barriers.begin();
    bool open = false;  // does the last statement of `result` reach up to here?
    for (const auto& piece : pieces) {
      if (piece.wanted == nullptr) continue;
      bool passed = false;
      while (barrier != barriers.end() && barrier->begin < piece.range.end) {
        passed = true;
        ++barrier;
      }
      const bool behind_barrier = passed;
      const bool inside = barrier != barriers.begin() && std::prev(barrier)->overlaps(piece.range);
      if (inside || !statement.applies(piece.wanted->marks)) {
        open = false;
      } else if (open && !behind_barrier) {
        result.back().range.end = piece.range.end;
      } else {
        result.push_back({piece.range, statement.mark, statement.on});
        open = true;
      }
    }
  }
  return result;
}

}  // namespace relive::apply
