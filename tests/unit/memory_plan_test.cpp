#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <map>
#include <random>

#include "diff/memory.h"

#include "tests/unit/texts.h"

namespace relive::diff {
namespace {

using model::Mapping;
using model::MappingMarks;
using model::MappingSource;
using model::Memory;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

constexpr std::uint64_t kBase = 0x7f0000000000;

Mapping mapping(std::uint64_t first_page, std::uint64_t pages, int protection = PROT_READ | PROT_WRITE) {
  Mapping result;
  result.range = {kBase + first_page * kPageSize, kBase + (first_page + pages) * kPageSize};
  result.readable = (protection & PROT_READ) != 0;
  result.writable = (protection & PROT_WRITE) != 0;
  result.executable = (protection & PROT_EXEC) != 0;
  result.marks.may_write = true;
  return result;
}

Mapping shared(Mapping from, std::uint64_t inode, std::uint64_t first_page = 0) {
  from.shared = true;
  from.source = MappingSource::shared_anonymous;
  from.name = "/dev/zero (deleted)";
  from.inode = inode;
  from.device = 1;
  from.offset = first_page * kPageSize;
  return from;
}

Mapping file(Mapping from, std::uint64_t inode, std::uint64_t first_page = 0) {
  from.source = MappingSource::file;
  from.name = "/lib/x" + std::to_string(inode);
  from.inode = inode;
  from.device = 1;
  from.offset = first_page * kPageSize;
  return from;
}

Memory memory(std::vector<Mapping> mappings) { return {std::move(mappings), {}, 0, 0}; }

std::vector<std::string> stories(const MemoryPlan& plan) {
  std::vector<std::string> result;
  for (const auto& difference : plan.differences) result.push_back(difference.text);
  return result;
}

TEST(MemoryPlanTest, EqualMemoriesNeedNothing) {
  const auto wanted = memory({mapping(0, 4), shared(mapping(4, 4), 7), file(mapping(8, 1, PROT_READ), 8)});
  const auto living = wanted;
  const auto plan = plan_memory(wanted, living);
  EXPECT_THAT(plan.operations, IsEmpty());
  EXPECT_THAT(plan.differences, IsEmpty());
  EXPECT_THAT(plan.made, IsEmpty());
  EXPECT_THAT(plan.kept, ElementsAre(AddressRange{kBase, kBase + 9 * kPageSize}));
}

TEST(MemoryPlanTest, LinesThatOnlyWereSplitAreEqual) {
  const auto wanted = memory({mapping(0, 4), shared(mapping(4, 4), 7)});
  const auto living = memory({mapping(0, 1), mapping(1, 3), shared(mapping(4, 2), 7), shared(mapping(6, 2), 7, 2)});
  const auto plan = plan_memory(wanted, living);
  EXPECT_THAT(plan.operations, IsEmpty());
  EXPECT_THAT(plan.differences, IsEmpty());
}

TEST(MemoryPlanTest, UnmappedMappedGrownShrunk) {
  const auto wanted = memory({mapping(0, 4), mapping(10, 2), mapping(20, 4)});
  const auto living = memory({mapping(0, 6), mapping(20, 3), mapping(30, 1)});
  const auto plan = plan_memory(wanted, living);
  EXPECT_THAT(stories(plan),
              ElementsAre("grown since by 8 KiB", "unmapped since", "shrunk since by 4 KiB", "mapped since"));
  EXPECT_THAT(texts(plan), ElementsAre("unmap 7f0000004000-7f0000006000 8 KiB", "unmap 7f000001e000-7f000001f000 4 KiB",
                                       "map 7f000000a000-7f000000c000 rw-p anonymous 8 KiB",
                                       "map 7f0000017000-7f0000018000 rw-p anonymous 4 KiB"));
}

TEST(MemoryPlanTest, MovedIsToldOnce) {
  const auto wanted = memory({shared(mapping(0, 4), 7)});
  const auto living = memory({shared(mapping(10, 4), 7)});
  const auto plan = plan_memory(wanted, living);
  EXPECT_THAT(stories(plan), ElementsAre("moved since to 7f000000a000"));
  ASSERT_THAT(plan.operations, SizeIs(2));
  EXPECT_EQ(std::get<MakeMapping>(plan.operations[1]).twin, kBase + 10 * kPageSize);
}

TEST(MemoryPlanTest, ProtectionAndMarks) {
  auto wanted = memory({mapping(0, 4, PROT_READ)});
  auto living = memory({mapping(0, 4)});
  wanted.mappings[0].marks.dont_fork = true;
  living.mappings[0].marks.random = true;
  const auto plan = plan_memory(wanted, living);
  EXPECT_THAT(stories(plan), ElementsAre("protection r-- -> rw-, no longer not forked, now read at random"));
  EXPECT_THAT(texts(plan), ElementsAre("protect 7f0000000000-7f0000004000 16 KiB: rw- -> r--",
                                       "mark 7f0000000000-7f0000004000 16 KiB: not forked",
                                       "mark 7f0000000000-7f0000004000 16 KiB: not read at random"));
}

TEST(MemoryPlanTest, AnotherObjectInThePlaceIsReplaced) {
  const auto wanted = memory({shared(mapping(0, 4), 7)});
  const auto living = memory({shared(mapping(0, 4), 8)});
  const auto plan = plan_memory(wanted, living);
  EXPECT_THAT(stories(plan), ElementsAre("replaced since by rw-s /dev/zero (deleted)"));
  EXPECT_THAT(texts(plan),
              ElementsAre("map 7f0000000000-7f0000004000 rw-s shared anonymous 16 KiB, over what is there"));
  EXPECT_THAT(plan.made, SizeIs(1));
}

TEST(MemoryPlanTest, AHugePageMarkCannotBeTakenOffSoTheMappingIsMadeAnew) {
  const auto wanted = memory({mapping(0, 4)});
  auto living = wanted;
  living.mappings[0].marks.no_huge_page = true;
  EXPECT_THAT(plan_memory(wanted, living).made, SizeIs(1));
}

TEST(MemoryPlanTest, TheKernelsOwnMappingsAreMovedWhole) {
  auto vdso = mapping(0, 2, PROT_READ | PROT_EXEC);
  vdso.source = MappingSource::kernel;
  vdso.name = "[vdso]";
  auto elsewhere = vdso;  // overlaps where it is wanted, and lies where another mapping is wanted
  elsewhere.range = {kBase + kPageSize, kBase + 3 * kPageSize};
  const auto wanted = memory({vdso, mapping(2, 1)});
  const auto living = memory({elsewhere, mapping(8, 1)});
  const auto plan = plan_memory(wanted, living);
  EXPECT_THAT(plan.refusals, IsEmpty());
  EXPECT_THAT(plan.operations,
              ElementsAre(MemoryOperation(UnmapRange{living.mappings[1].range}),
                          MemoryOperation(MoveKernelMapping{"[vdso]", elsewhere.range, vdso.range.begin}),
                          MemoryOperation(MakeMapping{wanted.mappings[1], false, 0, 0})));
  EXPECT_THAT(plan.made, ElementsAre(wanted.mappings[1].range));

  auto longer = elsewhere;
  longer.range.end += kPageSize;
  EXPECT_THAT(plan_memory(memory({vdso}), memory({longer})).refusals, SizeIs(2)) << "not the same mapping";
}

TEST(MemoryPlanTest, WhatCannotBePutBackIsRefusedByName) {
  auto vdso = mapping(0, 2, PROT_READ | PROT_EXEC);
  vdso.source = MappingSource::kernel;
  vdso.name = "[vdso]";
  auto ring = shared(mapping(10, 1), 5);
  ring.source = MappingSource::device;
  ring.name = "anon_inode:[io_uring]";
  auto huge = mapping(512, 512);
  huge.marks.huge_tlb = true;
  auto segment = shared(mapping(20, 1), 6);
  segment.source = MappingSource::sysv;
  segment.name = "/SYSV00000000 (deleted)";
  auto sealed = mapping(30, 2);
  sealed.marks.sealed = true;

  EXPECT_THAT(plan_memory(memory({vdso}), memory({})).refusals, SizeIs(1));
  EXPECT_THAT(plan_memory(memory({vdso}), memory({vdso})).refusals, IsEmpty());
  EXPECT_THAT(plan_memory(memory({}), memory({vdso})).refusals, SizeIs(1));
  EXPECT_THAT(unhandled_memory(memory({ring, huge})), SizeIs(2));
  EXPECT_THAT(plan_memory(memory({}), memory({ring})).refusals, IsEmpty()) << "a ring born since can go";
  EXPECT_THAT(plan_memory(memory({segment}), memory({})).refusals, IsEmpty()) << "it is attached again";
  EXPECT_THAT(plan_memory(memory({segment}), memory({segment})).refusals, IsEmpty());
  EXPECT_THAT(plan_memory(memory({}), memory({sealed})).refusals, SizeIs(1));
  EXPECT_THAT(plan_memory(memory({mapping(31, 1)}), memory({sealed})).refusals, SizeIs(1)) << "told once";
}

TEST(MemoryPlanTest, DroppableMemoryIsDroppedNotRestored) {
  auto state = mapping(0, 2);
  state.marks.droppable = true;
  const auto plan = plan_memory(memory({state}), memory({state}));
  EXPECT_THAT(texts(plan), ElementsAre("drop 7f0000000000-7f0000002000 8 KiB"));
  EXPECT_THAT(plan.kept, IsEmpty());
}

// ---- the plan, carried out on a simulated address space

struct Page {
  int protection = 0;
  bool shared = false;
  MappingSource source = MappingSource::anonymous;
  std::uint64_t inode = 0;
  std::uint64_t offset = 0;
  std::string name;
  MappingMarks marks;
  std::uint32_t key = 0;
  bool operator==(const Page&) const = default;
};

using Space = std::map<std::uint64_t, Page>;

Space space_of(const std::vector<Mapping>& mappings) {
  Space space;
  for (const auto& mapping : mappings) {
    for (std::uint64_t at = mapping.range.begin; at < mapping.range.end; at += kPageSize) {
      const std::uint64_t offset = mapping.has_object() ? mapping.offset + (at - mapping.range.begin) : 0;
      space[at] = {mapping.protection(),
                   mapping.shared,
                   mapping.source,
                   mapping.inode,
                   offset,
                   std::string(model::given_name(mapping)),
                   mapping.marks,
                   mapping.protection_key};
    }
  }
  return space;
}

class Simulator {
 public:
  explicit Simulator(Space space) : space_(std::move(space)) {}
  const Space& space() const { return space_; }

  void operator()(const UnmapRange& op) {
    each(op.range, [](Page&) {});
    space_.erase(space_.lower_bound(op.range.begin), space_.lower_bound(op.range.end));
  }
  void operator()(const MoveKernelMapping&) { FAIL() << "nothing of the kernel's is mapped"; }
  void operator()(const MakeMapping& op) {
    Mapping bare = op.mapping;
    bare.marks = {};
    bare.marks.may_write = op.mapping.marks.may_write;
    bare.marks.grows_down = op.mapping.marks.grows_down;
    bare.marks.no_reserve = op.mapping.marks.no_reserve;
    bare.name.clear();
    for (const auto& [at, page] : space_of({bare})) {
      EXPECT_EQ(space_.contains(at), !op.in_place) << "in place means: nothing is there";
      space_[at] = page;
    }
  }
  void operator()(const ProtectRange& op) {
    each(op.range, [&](Page& page) {
      EXPECT_EQ(page.protection, op.from);
      page.protection = op.to;
      page.key = op.to_key;
    });
  }
  void operator()(const NameRange& op) {
    each(op.range, [&](Page& page) { page.name = op.name; });
  }
  void operator()(const MarkRange& op) {
    each(op.range, [&](Page& page) {
      MappingMarks& marks = page.marks;
      switch (op.mark) {
        case Mark::dont_fork:
          marks.dont_fork = op.on;
          return;
        case Mark::dont_dump:
          marks.dont_dump = op.on;
          return;
        case Mark::wipe_on_fork:
          marks.wipe_on_fork = op.on;
          return;
        case Mark::mergeable:
          marks.mergeable = op.on;
          return;
        case Mark::sealed:
          marks.sealed = true;
          return;
        case Mark::huge_page:
        case Mark::no_huge_page:
          EXPECT_TRUE(op.on) << "no such call";
          marks.huge_page = op.mark == Mark::huge_page;
          marks.no_huge_page = op.mark == Mark::no_huge_page;
          return;
        case Mark::sequential:
        case Mark::random:
          marks.sequential = op.on && op.mark == Mark::sequential;
          marks.random = op.on && op.mark == Mark::random;
          return;
      }
    });
  }
  void operator()(const LockRange& op) {
    each(op.range, [&](Page& page) {
      page.marks.locked = op.to != Lock::none;
      page.marks.lock_on_fault = op.to == Lock::on_fault;
    });
  }
  void operator()(const DropRange& op) {
    each(op.range, [](Page&) {});
  }
  void operator()(const SetLayout&) {}

 private:
  template <class Function>
  void each(AddressRange range, Function function) {
    for (std::uint64_t at = range.begin; at < range.end; at += kPageSize) {
      const auto found = space_.find(at);
      ASSERT_NE(found, space_.end()) << "an operation on nothing";
      function(found->second);
    }
  }
  Space space_;
};

class Generator {
 public:
  explicit Generator(unsigned seed) : random_(seed) {}

  std::vector<Mapping> memory() {
    std::vector<Mapping> mappings;
    std::uint64_t page = below(4);
    while (page < 40) {
      const std::uint64_t pages = 1 + below(6);
      mappings.push_back(one(page, pages));
      page += pages + (below(3) == 0 ? below(5) : 0);
    }
    return mappings;
  }

  // What a program may have done since: the same memory with pieces changed.
  std::vector<Mapping> changed(const std::vector<Mapping>& from) {
    std::vector<Mapping> result;
    for (const auto& mapping : from) {
      const std::uint64_t pages = mapping.range.pages();
      const std::uint64_t first = below(pages + 1);
      const AddressRange left{mapping.range.begin, mapping.range.begin + first * kPageSize};
      const AddressRange right{left.end, mapping.range.end};
      for (const auto& part : {left, right}) {
        if (part.empty()) continue;
        Mapping piece = mapping.cut(part);
        const auto choice = below(8);
        if (choice == 0) continue;
        if (choice == 1) piece = one((part.begin - kBase) / kPageSize, part.pages());
        if (choice == 2) piece.writable = !piece.writable;
        if (choice == 3) marks(piece);
        result.push_back(piece);
      }
    }
    return result;
  }

  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }

 private:
  Mapping one(std::uint64_t page, std::uint64_t pages) {
    Mapping result = mapping(page, pages, static_cast<int>(below(8)));
    const auto kind = below(4);
    if (kind == 1) result = shared(result, 1 + below(3), below(3));
    if (kind == 2) result = file(result, 10 + below(3), below(3));
    if (kind == 3) result.marks.grows_down = below(2) == 0;
    if (kind == 0 && below(3) == 0) result.name = below(2) == 0 ? "[anon:a]" : "[anon:b]";
    result.marks.no_reserve = below(4) == 0;
    if (below(2) == 0) marks(result);
    return result;
  }

  void marks(Mapping& mapping) {
    mapping.marks.dont_fork = below(2) == 0;
    mapping.marks.dont_dump = below(2) == 0;
    mapping.marks.mergeable = below(2) == 0;
    mapping.marks.locked = below(2) == 0;
    mapping.marks.lock_on_fault = mapping.marks.locked && below(2) == 0;
    const auto access = below(3);
    mapping.marks.sequential = access == 1;
    mapping.marks.random = access == 2;
    const auto huge = below(3);
    mapping.marks.huge_page = huge == 1;
    mapping.marks.no_huge_page = huge == 2;
  }

  std::mt19937 random_;
};

bool covers(const tracking::Ranges& ranges, std::uint64_t at) {
  return std::ranges::any_of(ranges, [&](const AddressRange& range) { return range.contains(at); });
}

TEST(MemoryPlanTest, AnyMemoryBecomesAnyOther) {
  const unsigned base = std::random_device{}();
  for (unsigned round = 0; round < 5000; ++round) {
    const unsigned seed = base + round;
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Generator generator(seed);
    const auto wanted = memory(generator.memory());
    const auto living = memory(generator.below(3) == 0 ? generator.memory() : generator.changed(wanted.mappings));
    const auto plan = plan_memory(wanted, living);
    ASSERT_THAT(plan.refusals, IsEmpty());
    Simulator simulator(space_of(living.mappings));
    for (const auto& operation : plan.operations) std::visit(simulator, operation);
    const Space before = space_of(living.mappings);
    const Space goal = space_of(wanted.mappings);
    ASSERT_EQ(simulator.space(), goal);
    for (const auto& [at, page] : goal) {
      ASSERT_NE(covers(plan.kept, at), covers(plan.made, at)) << "each wanted page is either kept or made";
      if (!covers(plan.kept, at)) continue;
      const auto old = before.find(at);
      ASSERT_NE(old, before.end());
      ASSERT_EQ(old->second.inode, page.inode);
      ASSERT_EQ(old->second.offset, page.offset);
    }
    ASSERT_EQ(plan.operations.empty(), before == goal);
    ASSERT_EQ(plan.differences.empty(), before == goal);
    // And there again: nothing is left to do.
    ASSERT_THAT(plan_memory(wanted, memory(model::merged(wanted.mappings))).operations, IsEmpty());
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

}  // namespace
}  // namespace relive::diff
