#include "diff/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace relive::diff {
namespace {

using model::Mapping;
using model::MappingMarks;
using model::MappingSource;
using model::Memory;

std::string range_text(AddressRange range) {
  return fmt::format("{:x}-{:x} {}", range.begin, range.end, model::size_text(range.size()));
}

std::string protection_text(int protection) {
  return {(protection & PROT_READ) != 0 ? 'r' : '-', (protection & PROT_WRITE) != 0 ? 'w' : '-',
          (protection & PROT_EXEC) != 0 ? 'x' : '-'};
}

std::string object_text(const Mapping& mapping) { return "mapping " + model::mapping_text(mapping); }

struct MarkName {
  Mark mark;
  bool MappingMarks::* value;
  std::string_view name;
};

constexpr MarkName kMarks[] = {
    {Mark::dont_fork, &MappingMarks::dont_fork, "not forked"},
    {Mark::dont_dump, &MappingMarks::dont_dump, "not dumped"},
    {Mark::wipe_on_fork, &MappingMarks::wipe_on_fork, "wiped on fork"},
    {Mark::mergeable, &MappingMarks::mergeable, "mergeable"},
    {Mark::huge_page, &MappingMarks::huge_page, "huge pages"},
    {Mark::no_huge_page, &MappingMarks::no_huge_page, "no huge pages"},
    {Mark::sequential, &MappingMarks::sequential, "read in sequence"},
    {Mark::random, &MappingMarks::random, "read at random"},
    {Mark::sealed, &MappingMarks::sealed, "sealed"},
};

const MarkName& mark_name(Mark mark) {
  return *std::ranges::find_if(kMarks, [&](const MarkName& known) { return known.mark == mark; });
}

Lock lock_of(const MappingMarks& marks) {
  return !marks.locked ? Lock::none : marks.lock_on_fault ? Lock::on_fault : Lock::locked;
}

std::string_view lock_text(Lock lock) {
  switch (lock) {
    case Lock::none:
      return "not locked";
    case Lock::locked:
      return "locked";
    case Lock::on_fault:
      return "locked on fault";
  }
  return "?";
}

// Can `living` become `wanted` where it is? Some attributes are given for life.
bool can_be_kept(const Mapping& wanted, const Mapping& living, std::uint64_t address) {
  if (!model::same_object(wanted, living, address)) return false;
  if (wanted.source == MappingSource::kernel) return true;
  const MappingMarks& w = wanted.marks;
  const MappingMarks& l = living.marks;
  if (w.grows_down != l.grows_down || w.no_reserve != l.no_reserve || w.droppable != l.droppable ||
      w.huge_tlb != l.huge_tlb)
    return false;
  // madvise(2) can turn one of the two on, never both off.
  if (!w.huge_page && !w.no_huge_page && (l.huge_page || l.no_huge_page)) return false;
  return true;
}

bool has_contents(const Mapping& wanted) {
  if (wanted.source == MappingSource::kernel || wanted.source == MappingSource::device || wanted.marks.droppable)
    return false;
  return wanted.is_private() || wanted.writable || wanted.marks.may_write;
}

std::vector<MemoryPiece> cut(const Memory& wanted, const Memory& living) {
  std::vector<MemoryPiece> pieces;
  pieces.reserve(std::max(wanted.mappings.size(), living.mappings.size()) + 16);
  auto w = wanted.mappings.begin();
  auto l = living.mappings.begin();
  std::uint64_t at = 0;
  while (w != wanted.mappings.end() || l != living.mappings.end()) {
    const bool in_w = w != wanted.mappings.end() && w->range.contains(at);
    const bool in_l = l != living.mappings.end() && l->range.contains(at);
    std::uint64_t next = ~std::uint64_t{0};
    if (w != wanted.mappings.end()) next = std::min(next, in_w ? w->range.end : w->range.begin);
    if (l != living.mappings.end()) next = std::min(next, in_l ? l->range.end : l->range.begin);
    if (in_w || in_l) {
      MemoryPiece piece{{at, next}, in_w ? &*w : nullptr, in_l ? &*l : nullptr, false};
      piece.kept = in_w && in_l && can_be_kept(*w, *l, at);
      pieces.push_back(piece);
    }
    at = next;
    if (w != wanted.mappings.end() && w->range.end <= at) ++w;
    if (l != living.mappings.end() && l->range.end <= at) ++l;
  }
  return pieces;
}

void add_range(tracking::Ranges& ranges, AddressRange range) {
  if (!ranges.empty() && ranges.back().end == range.begin) {
    ranges.back().end = range.end;
  } else {
    ranges.push_back(range);
  }
}

// Appends an operation, or makes the last one longer if this one continues it.
template <class Operation>
void add(std::vector<Operation>& operations, Operation operation) {
  if (!operations.empty() && operations.back().range.end == operation.range.begin) {
    Operation longer = operations.back();
    longer.range = operation.range;
    if (longer == operation) {
      operations.back().range.end = operation.range.end;
      return;
    }
  }
  operations.push_back(std::move(operation));
}

bool lies_in_one(const Mapping* a, const Mapping* b) { return a != nullptr && a == b; }

// ---- what people are shown

std::string changes_text(const Mapping& wanted, const Mapping& living) {
  std::string changes;
  const auto add_text = [&](std::string what) { changes += (changes.empty() ? "" : ", ") + std::move(what); };
  if (wanted.protection() != living.protection()) {
    add_text(
        fmt::format("protection {} -> {}", protection_text(wanted.protection()), protection_text(living.protection())));
  }
  if (wanted.protection_key != living.protection_key)
    add_text(fmt::format("protection key {} -> {}", wanted.protection_key, living.protection_key));
  for (const auto& known : kMarks) {
    if (wanted.marks.*known.value != living.marks.*known.value)
      add_text(fmt::format("{}{}", living.marks.*known.value ? "now " : "no longer ", known.name));
  }
  if (lock_of(wanted.marks) != lock_of(living.marks)) {
    add_text(fmt::format("{} -> {}", lock_text(lock_of(wanted.marks)), lock_text(lock_of(living.marks))));
  }
  if (model::given_name(wanted) != model::given_name(living)) {
    add_text(fmt::format("name \"{}\" -> \"{}\"", model::given_name(wanted), model::given_name(living)));
  }
  return changes;
}

bool same_shape(const Mapping& a, const Mapping& b) {
  return a.range.size() == b.range.size() && a.protection() == b.protection() && a.shared == b.shared &&
         a.source == b.source && a.device == b.device && a.inode == b.inode && a.offset == b.offset;
}

class Storyteller {
 public:
  Storyteller(const std::vector<MemoryPiece>& pieces, std::vector<Difference>& differences)
      : pieces_(pieces), differences_(differences) {}

  void tell() {
    find_moves();
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      const MemoryPiece& piece = pieces_[i];
      if (piece.kept) {
        changed(piece);
      } else if (piece.wanted != nullptr && piece.living != nullptr) {
        replaced(piece);
      } else if (piece.wanted != nullptr) {
        gone(i);
      } else {
        born(i);
      }
    }
  }

 private:
  // A whole mapping that is gone, and exactly one whole new mapping of its shape elsewhere: it was moved.
  void find_moves() {
    std::vector<const Mapping*> candidates;
    for (const auto& piece : pieces_) {
      if (piece.wanted == nullptr && piece.range == piece.living->range) candidates.push_back(piece.living);
    }
    if (candidates.size() > 64) return;  // for people; not worth a search
    for (const auto& piece : pieces_) {
      if (piece.living != nullptr || piece.range != piece.wanted->range) continue;
      const auto fits = [&](const Mapping* mapping) { return same_shape(*mapping, *piece.wanted); };
      if (std::ranges::count_if(candidates, fits) == 1)
        moves_.emplace_back(piece.wanted, *std::ranges::find_if(candidates, fits));
    }
  }

  void changed(const MemoryPiece& piece) {
    std::string changes = changes_text(*piece.wanted, *piece.living);
    if (changes.empty()) return;
    if (continues_last(piece, changes)) return;
    note(piece, Sign::changed, piece.wanted->cut(piece.range), std::move(changes));
  }

  // The same thing happened to the mapping before: one line for both.
  bool continues_last(const MemoryPiece& piece, const std::string& changes) {
    if (!last_ || last_->wanted != piece.wanted || last_->range.end != piece.range.begin ||
        differences_.back().text != changes)
      return false;
    last_->range.end = piece.range.end;
    differences_.back().object = object_text(piece.wanted->cut(last_->range));
    return true;
  }

  void replaced(const MemoryPiece& piece) {
    const Mapping now = piece.living->cut(piece.range);
    note(piece, Sign::changed, piece.wanted->cut(piece.range),
         fmt::format("replaced since by {} {}", model::permissions_text(now),
                     now.name.empty() ? (now.shared ? "shared anonymous" : "anonymous") : now.name));
  }

  void gone(std::size_t index) {
    const MemoryPiece& piece = pieces_[index];
    const auto move = std::ranges::find(moves_, piece.wanted, &std::pair<const Mapping*, const Mapping*>::first);
    if (move != moves_.end() && piece.range == piece.wanted->range) {
      note(piece, Sign::changed, *piece.wanted, fmt::format("moved since to {:x}", move->second->range.begin));
      return;
    }
    const bool shrunk =
        (index > 0 && pieces_[index - 1].kept && lies_in_one(pieces_[index - 1].wanted, piece.wanted)) ||
        (index + 1 < pieces_.size() && pieces_[index + 1].kept && lies_in_one(pieces_[index + 1].wanted, piece.wanted));
    note(piece, Sign::removed, piece.wanted->cut(piece.range),
         shrunk ? fmt::format("shrunk since by {}", model::size_text(piece.range.size())) : "unmapped since");
  }

  void born(std::size_t index) {
    const MemoryPiece& piece = pieces_[index];
    const auto move = std::ranges::find(moves_, piece.living, &std::pair<const Mapping*, const Mapping*>::second);
    if (move != moves_.end() && piece.range == piece.living->range) return;  // told where it was
    const auto grown_from = [&](std::size_t other) {
      return pieces_[other].kept &&
             (lies_in_one(pieces_[other].living, piece.living) ||
              (pieces_[other].living->protection() == piece.living->protection() && !piece.living->has_object() &&
               !pieces_[other].living->has_object() && pieces_[other].living->name == piece.living->name &&
               !piece.living->name.empty()));
    };
    const bool grown =
        (index > 0 && pieces_[index - 1].range.end == piece.range.begin && grown_from(index - 1)) ||
        (index + 1 < pieces_.size() && pieces_[index + 1].range.begin == piece.range.end && grown_from(index + 1));
    note(piece, Sign::added, piece.living->cut(piece.range),
         grown ? fmt::format("grown since by {}", model::size_text(piece.range.size())) : "mapped since");
  }

  void note(const MemoryPiece& piece, Sign sign, const Mapping& what, std::string text) {
    differences_.push_back({Family::mapping, sign, object_text(what), std::move(text), 0});
    last_ = piece;
  }

  const std::vector<MemoryPiece>& pieces_;
  std::vector<Difference>& differences_;
  std::vector<std::pair<const Mapping*, const Mapping*>> moves_;
  std::optional<MemoryPiece> last_;
};

// The kernel's own mappings that are wanted elsewhere, whole.
std::vector<MoveKernelMapping> moved_kernel_mappings(const Memory& wanted, const Memory& living) {
  std::vector<MoveKernelMapping> moves;
  for (const Mapping& want : wanted.mappings) {
    if (want.source != MappingSource::kernel) continue;
    const auto same = [&](const Mapping& lives) {
      return lives.source == MappingSource::kernel && lives.name == want.name &&
             lives.range.size() == want.range.size();
    };
    const auto lives = std::ranges::find_if(living.mappings, same);
    if (lives != living.mappings.end() && lives->range != want.range)
      moves.push_back({want.name, lives->range, want.range.begin});
  }
  return moves;
}

// ---- what cannot be done

class Judge {
 public:
  Judge(MemoryPlan& plan, const std::vector<MoveKernelMapping>& moves) : plan_(plan), moves_(moves) {}

  void judge(const MemoryPiece& piece) {
    const Mapping* wanted = piece.wanted;
    const Mapping* living = piece.living;
    if (piece.kept) {
      if (living->marks.sealed && (!wanted->marks.sealed || wanted->protection() != living->protection()))
        refuse_sealed(*living);
      return;
    }
    for (const Mapping* mapping : {wanted, living}) {
      if (mapping == nullptr || mapping->source != MappingSource::kernel || moves(*mapping)) continue;
      refuse(*mapping, "the kernel's own mappings have changed",
             "the task has unmapped its vDSO, or was replaced by execve(2)");
    }
    if (living != nullptr && living->marks.sealed) refuse_sealed(*living);
    if (living != nullptr && living->name.starts_with("/[aio]"))
      refuse(*living, "an AIO context that was made since would have to be destroyed",
             "call io_destroy(2), or let the program do it");
    if (living != nullptr && living->marks.huge_tlb && piece.range != living->range)
      refuse(*living, "a part of a hugetlb mapping would have to go", "");
    // Execute-only memory has a key by itself on processors that know keys, and gets one again (pkeys(7)).
    if (wanted != nullptr && wanted->protection_key != 0 && wanted->protection() != PROT_EXEC) {
      refuse(*wanted, fmt::format("memory under protection key {} would have to be made anew", wanted->protection_key),
             "");
    }
  }

 private:
  [[nodiscard]] bool moves(const Mapping& kernels) const {
    return std::ranges::any_of(moves_, [&](const MoveKernelMapping& move) {
      return move.name == kernels.name && (move.from == kernels.range || move.to == kernels.range.begin);
    });
  }

  void refuse_sealed(const Mapping& mapping) {
    refuse(mapping, "it is sealed (mseal(2)) and would have to change", "");
  }

  void refuse(const Mapping& mapping, std::string reason, std::string hint) {
    Refusal refusal{object_text(mapping), std::move(reason), std::move(hint)};
    if (plan_.refusals.empty() || plan_.refusals.back() != refusal) plan_.refusals.push_back(std::move(refusal));
  }

  MemoryPlan& plan_;
  const std::vector<MoveKernelMapping>& moves_;
};

// ---- what is to be done

class Planner {
 public:
  Planner(const Memory& wanted, const Memory& living, const std::vector<MoveKernelMapping>& moves, MemoryPlan& plan)
      : wanted_(wanted), living_(living), moves_(moves), plan_(plan) {}

  void plan() {
    for (const auto& piece : plan_.pieces) {
      if (piece.wanted == nullptr) {
        if (piece.living->source != MappingSource::kernel) add(unmaps_, UnmapRange{piece.range});
      } else if (piece.kept) {
        keep(piece);
      } else if (piece.wanted->source != MappingSource::kernel) {
        make(piece);
      }
    }
    append(unmaps_);
    append(moves_);
    append(makes_);
    append(protects_);
    append(names_);
    for (const auto& marks : marks_) append(marks);
    append(locks_);
    append(drops_);
    if (wanted_.layout != living_.layout) plan_.operations.emplace_back(SetLayout{living_.layout, wanted_.layout});
  }

 private:
  template <class Operation>
  void append(const std::vector<Operation>& operations) {
    plan_.operations.insert(plan_.operations.end(), operations.begin(), operations.end());
  }

  void keep(const MemoryPiece& piece) {
    const Mapping& wanted = *piece.wanted;
    const Mapping& living = *piece.living;
    if (wanted.source == MappingSource::kernel) return;
    if (has_contents(wanted)) add_range(plan_.kept, piece.range);
    if (wanted.marks.droppable) add(drops_, DropRange{piece.range});
    if (wanted.protection() != living.protection() || wanted.protection_key != living.protection_key) {
      add(protects_, ProtectRange{piece.range, living.protection(), wanted.protection(), living.protection_key,
                                  wanted.protection_key});
    }
    state_attributes(piece.range, wanted, living.marks, model::given_name(living));
  }

  void make(const MemoryPiece& piece) {
    Mapping mapping = piece.wanted->cut(piece.range);
    if (has_contents(mapping)) add_range(plan_.made, piece.range);
    state_attributes(piece.range, mapping, {}, {});
    MakeMapping make{std::move(mapping), piece.living == nullptr, 0, 0};
    if (make.mapping.has_object()) {
      make.hold_key = model::hold_key(wanted_, make.mapping);
      make.twin = find_twin(make.mapping);
    }
    if (continues_last(make)) {
      makes_.back().mapping.range.end = make.mapping.range.end;
    } else {
      makes_.push_back(std::move(make));
    }
  }

  // Two pieces of one wanted mapping over a hole and over something else stay two; all else that continues is one.
  bool continues_last(const MakeMapping& next) const {
    if (makes_.empty()) return false;
    const MakeMapping& last = makes_.back();
    if (last.mapping.range.end != next.mapping.range.begin || last.in_place != next.in_place ||
        last.hold_key != next.hold_key)
      return false;
    if (last.twin != 0 || next.twin != 0) return false;
    return model::merged({last.mapping, next.mapping}).size() == 1;
  }

  std::uint64_t find_twin(const Mapping& mapping) const {
    if (!mapping.shared) return 0;
    for (const auto& other : living_.mappings) {
      if (!other.shared || other.source == MappingSource::device || other.device != mapping.device ||
          other.inode != mapping.inode)
        continue;
      // A duplicate has the marks of the original; these could not be taken off it.
      if (other.marks.locked || other.marks.sealed || other.marks.no_reserve != mapping.marks.no_reserve) continue;
      if (!mapping.marks.huge_page && !mapping.marks.no_huge_page &&
          (other.marks.huge_page || other.marks.no_huge_page))
        continue;
      if (other.offset <= mapping.offset &&
          mapping.offset + mapping.range.size() <= other.offset + other.range.size()) {
        return other.range.begin + (mapping.offset - other.offset);
      }
    }
    return 0;
  }

  void state_attributes(AddressRange range, const Mapping& wanted, const MappingMarks& now, std::string_view name_now) {
    if (model::given_name(wanted) != name_now) add(names_, NameRange{range, std::string(model::given_name(wanted))});
    for (std::size_t i = 0; i < std::size(kMarks); ++i) {
      const bool on = wanted.marks.*kMarks[i].value;
      if (on == now.*kMarks[i].value) continue;
      if (!on && kMarks[i].mark == Mark::huge_page) continue;     // the other one is turned on
      if (!on && kMarks[i].mark == Mark::no_huge_page) continue;  // likewise
      if (!on && kMarks[i].mark == Mark::sequential && wanted.marks.random) continue;
      if (!on && kMarks[i].mark == Mark::random && wanted.marks.sequential) continue;
      add(marks_[i], MarkRange{range, kMarks[i].mark, on});
    }
    if (lock_of(wanted.marks) != lock_of(now)) add(locks_, LockRange{range, lock_of(now), lock_of(wanted.marks)});
  }

  const Memory& wanted_;
  const Memory& living_;
  const std::vector<MoveKernelMapping>& moves_;
  MemoryPlan& plan_;
  std::vector<UnmapRange> unmaps_;
  std::vector<MakeMapping> makes_;
  std::vector<ProtectRange> protects_;
  std::vector<NameRange> names_;
  std::vector<MarkRange> marks_[std::size(kMarks)];
  std::vector<LockRange> locks_;
  std::vector<DropRange> drops_;
};

void tell_layout(const Memory& wanted, const Memory& living, std::vector<Difference>& differences) {
  const auto& w = wanted.layout;
  const auto& l = living.layout;
  if (w == l) return;
  if (w.brk != l.brk)
    differences.push_back(
        {Family::mapping, Sign::changed, "program break", fmt::format("{:x} -> {:x}", w.brk, l.brk), 0});
  auto rest = l;
  rest.brk = w.brk;
  if (rest != w)
    differences.push_back({Family::mapping, Sign::changed, "memory layout",
                           "code, data, stack, argument or environment borders moved", 0});
}

}  // namespace

std::string text(const MemoryOperation& operation) {
  struct Speaker {
    std::string operator()(const UnmapRange& op) const { return fmt::format("unmap {}", range_text(op.range)); }
    std::string operator()(const MoveKernelMapping& op) const {
      return fmt::format("move {} from {:x} to {:x}", op.name, op.from.begin, op.to);
    }
    std::string operator()(const MakeMapping& op) const {
      return fmt::format("map {}{}", model::mapping_text(op.mapping), op.in_place ? "" : ", over what is there");
    }
    std::string operator()(const ProtectRange& op) const {
      return fmt::format("protect {}: {} -> {}", range_text(op.range), protection_text(op.from),
                         protection_text(op.to));
    }
    std::string operator()(const MarkRange& op) const {
      return fmt::format("mark {}: {}{}", range_text(op.range), op.on ? "" : "not ", mark_name(op.mark).name);
    }
    std::string operator()(const LockRange& op) const {
      return fmt::format("lock {}: {} -> {}", range_text(op.range), lock_text(op.from), lock_text(op.to));
    }
    std::string operator()(const NameRange& op) const {
      return fmt::format("name {}: \"{}\"", range_text(op.range), op.name);
    }
    std::string operator()(const DropRange& op) const { return fmt::format("drop {}", range_text(op.range)); }
    std::string operator()(const SetLayout& op) const {
      return fmt::format("set the program break to {:x} and the layout", op.to.brk);
    }
  };
  return std::visit(Speaker{}, operation);
}

MemoryPlan plan_memory(const Memory& wanted, const Memory& living) {
  MemoryPlan plan;
  plan.refusals = unhandled_memory(wanted);
  plan.pieces = cut(wanted, living);
  Storyteller(plan.pieces, plan.differences).tell();
  tell_layout(wanted, living, plan.differences);
  const auto moves = moved_kernel_mappings(wanted, living);
  Judge judge(plan, moves);
  for (const auto& piece : plan.pieces) judge.judge(piece);
  Planner(wanted, living, moves, plan).plan();
  return plan;
}

std::vector<Refusal> unhandled_memory(const Memory& memory) {
  std::vector<Refusal> refusals;
  for (const auto& mapping : memory.mappings) {
    if (mapping.source == MappingSource::kernel) continue;
    const auto refuse = [&](std::string reason) {
      refusals.push_back({object_text(mapping), std::move(reason), "a later release may handle it"});
    };
    if (mapping.source == MappingSource::device || mapping.marks.io)
      refuse("device memory, or a ring shared with the kernel");
    if (mapping.marks.huge_tlb) refuse("hugetlb memory");
    if (mapping.marks.shadow_stack) refuse("a user shadow stack");
  }
  return refusals;
}

}  // namespace relive::diff
