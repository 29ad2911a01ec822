// Trackers against the truth, and the page store, on a child that misuses its memory at random.
// A failure prints its seed; RELIVE_SEED=N repeats it.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <random>

#include "capture/memory.h"
#include "live/child.h"
#include "task/frozen_task.h"
#include "task/procfs.h"
#include "tracking/page_store.h"
#include "tracking/populated.h"
#include "tracking/tracker.h"

namespace relive::tracking {
namespace {

using parasite::Session;
using parasite::Visit;
using task::FrozenTask;
using testing::Child;
using testing::ChildEnd;

constexpr std::uint64_t kAreaPages = 4096;  // 16 MiB: several page tables, so that whole ones come and go
constexpr std::uint64_t kFilePages = 256;

unsigned seed_of_this_run() {
  const char* asked = std::getenv("RELIVE_SEED");
  return asked != nullptr ? static_cast<unsigned>(std::strtoul(asked, nullptr, 10)) : std::random_device{}();
}

// The memory that the child plays with. Made before the fork, so that test and child know the addresses.
struct Playground {
  char* anonymous = nullptr;  // private, kAreaPages
  char* file = nullptr;       // private, of a file, kFilePages
  char* shared = nullptr;     // shared anonymous, kFilePages
  UniqueFd backing;
  UniqueFd zero;

  Playground() {
    backing.reset(::memfd_create("relive-test-backing", MFD_CLOEXEC));
    const std::vector<char> text(kFilePages * kPageSize, 'f');
    if (::write(backing.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) ::abort();
    zero.reset(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
    anonymous = map(kAreaPages, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    file = map(kFilePages, MAP_PRIVATE, backing.get());
    shared = map(kFilePages, MAP_SHARED | MAP_ANONYMOUS, -1);
  }
  Playground(const Playground&) = delete;
  Playground& operator=(const Playground&) = delete;
  ~Playground() {
    ::munmap(anonymous, kAreaPages * kPageSize);
    ::munmap(file, kFilePages * kPageSize);
    ::munmap(shared, kFilePages * kPageSize);
  }
  [[nodiscard]] Ranges ranges() const {
    const auto of = [](const char* at, std::uint64_t pages) {
      const auto begin = reinterpret_cast<std::uint64_t>(at);
      return AddressRange{begin, begin + pages * kPageSize};
    };
    return normalize({of(anonymous, kAreaPages), of(file, kFilePages), of(shared, kFilePages)});
  }
  static char* map(std::uint64_t pages, int flags, int fd) {
    void* at = ::mmap(nullptr, pages * kPageSize, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (at == MAP_FAILED) ::abort();
    return static_cast<char*>(at);
  }
};

// One random act on the playground.
void misuse(const Playground& ground, std::mt19937& random) {
  const auto below = [&](std::uint64_t limit) {
    return std::uniform_int_distribution<std::uint64_t>(0, limit - 1)(random);
  };
  char* area[] = {ground.anonymous, ground.file, ground.shared};
  const std::uint64_t sizes[] = {kAreaPages, kFilePages, kFilePages};
  const std::uint64_t which = std::min<std::uint64_t>(2, below(5) == 0 ? 2 : below(2));
  const std::uint64_t page = below(sizes[which]);
  const std::uint64_t pages = std::min(sizes[which] - page, 1 + (below(4) == 0 ? below(1500) : below(8)));
  char* at = area[which] + page * kPageSize;
  const std::size_t bytes = pages * kPageSize;
  volatile char sink = 0;
  switch (below(12)) {
    case 0:
    case 1:
    case 2:
      *at = static_cast<char>(below(256));
      break;
    case 3:
      for (std::uint64_t i = 0; i < pages; ++i) at[i * kPageSize + below(kPageSize)] = static_cast<char>(below(256));
      break;
    case 4: {  // the kernel writes
      const auto got = ::read(ground.zero.get(), at, std::min<std::size_t>(bytes, 3 * kPageSize));
      if (got < 0) std::abort();
      break;
    }
    case 5:
      ::madvise(at, bytes, MADV_DONTNEED);
      break;
    case 6:  // dropped, then looked at
      ::madvise(at, bytes, MADV_DONTNEED);
      for (std::uint64_t i = 0; i < pages; ++i) sink = at[i * kPageSize];
      break;
    case 7:
      for (std::uint64_t i = 0; i < pages; ++i) sink = at[i * kPageSize];
      break;
    case 8:  // mapped over
      if (which == 0) ::mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      if (which == 1)
        ::mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, ground.backing.get(),
               static_cast<off_t>(page * kPageSize));
      break;
    case 9: {  // moved over others; the hole is filled anew
      if (which != 0) break;
      const std::uint64_t target = below(kAreaPages - pages + 1);
      char* to = ground.anonymous + target * kPageSize;
      if (to < at + bytes && at < to + bytes) break;
      // Several mappings cannot be moved at once before Linux 6.17, and a failed move leaves a hole at its target.
      if (::mremap(at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED)
        ::mmap(to, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      ::mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      break;
    }
    case 10:  // shrunk and grown again in place
      if (which != 0 || page + pages == kAreaPages) break;
      ::mremap(at, bytes, kPageSize, 0);
      if (pages > 1 && ::mremap(at, kPageSize, bytes, 0) == MAP_FAILED)
        ::mmap(at + kPageSize, bytes - kPageSize, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
      break;
    case 11:
      ::mprotect(at, bytes, PROT_READ);
      ::mprotect(at, bytes, PROT_READ | PROT_WRITE);
      break;
    default:
      break;
  }
  static_cast<void>(sink);
}

// Fills the holes that case 10 leaves where growing did not work: the area is one again.
void mend(const Playground& ground) {
  for (std::uint64_t page = 0; page < kAreaPages; ++page)
    ::mmap(ground.anonymous + page * kPageSize, kPageSize, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
}

int play(const Playground& ground, unsigned seed, bool huge, ChildEnd end) {
  std::mt19937 random(seed);
  if (huge) ::madvise(ground.anonymous, kAreaPages * kPageSize, MADV_HUGEPAGE);
  for (std::uint64_t page = 0; page < kAreaPages; page += 1 + page % 3)
    ground.anonymous[page * kPageSize] = static_cast<char>(page);
  for (std::uint64_t page = 0; page < kFilePages; page += 2) ground.file[page * kPageSize] = 1;
  for (std::uint64_t page = 0; page < kFilePages / 2; page += 3) ground.shared[page * kPageSize] = 1;
  end.say('r');
  for (;;) {
    const char word = end.hear();
    for (int acts = word; acts > 0; --acts) misuse(ground, random);
    mend(ground);
    end.say('d');
  }
}

// What the engine does around a tracker: a snapshot whose map is always "current".
struct Rig {
  explicit Rig(const Child& process) : child(process) {}
  const Child& child;
  std::optional<Session> session;
  std::optional<PageStore> store;
  std::unique_ptr<Tracker> tracker;
  PageMap current;
};

#define ASSERT_OK(result) ASSERT_TRUE((result).has_value()) << (result).error().text()

// REQUIRES: a machine that does not swap while the test runs.
Result<Ranges> markers(model::Pid pid, const Ranges& where) {
  const Pagemap pagemap = RELIVE_TRY(Pagemap::open(pid));
  if (!pagemap.can_scan()) return Ranges{};
  std::vector<AddressRange> out;
  const PageQuery query{
      .inverted = PageIs::written, .all = PageIs::written | PageIs::swapped | PageIs::tracked, .any = 0, .wanted = 0};
  for (const PageRegion& region : RELIVE_TRY(pagemap.scan(where, query))) out.push_back(region.range);
  return normalize(std::move(out));
}

class TrackerTruth : public ::testing::TestWithParam<std::tuple<TrackerKind, bool>> {};

TEST_P(TrackerTruth, WhatDiffersIsFound) {
  const auto [kind, huge] = GetParam();
  for (const TrackerProof& proof : prove_trackers())
    if (proof.kind == kind && !proof.works) GTEST_SKIP() << "needs " << tracker_name(kind) << ": " << proof.reason;
  const unsigned seed = seed_of_this_run();
  SCOPED_TRACE("RELIVE_SEED=" + std::to_string(seed));
  const Playground ground;
  const Child child([&, huge = huge](ChildEnd end) { return play(ground, seed, huge, end); });
  Rig rig(child);
  std::mt19937 random(seed + 1);
  std::uint64_t reported = 0;
  std::uint64_t different = 0;
  for (int round = 0; round < 25; ++round) {
    auto task = FrozenTask::freeze(child.pid());
    ASSERT_OK(task);
    if (!rig.session) {
      auto session = Session::infect(*task);
      ASSERT_OK(session);
      rig.session.emplace(std::move(*session));
    }
    {
      auto visit = Visit::begin(*task, *rig.session);
      ASSERT_OK(visit);
      if (!rig.tracker) {
        auto store = PageStore::create(*visit);
        ASSERT_OK(store);
        rig.store.emplace(std::move(*store));
        auto tracker = Tracker::create(kind, *visit);
        ASSERT_OK(tracker);
        rig.tracker = std::move(*tracker);
      }
      const auto living = capture::read_memory(*visit);
      ASSERT_OK(living);
      const auto changed = rig.tracker->changed(*visit, *living, rig.current, *rig.store);
      ASSERT_OK(changed);
      auto judge = Tracker::create(TrackerKind::compare, *visit);
      ASSERT_OK(judge);
      const auto truth = (*judge)->changed(*visit, *living, rig.current, *rig.store);
      ASSERT_OK(truth);
      // A protected page of a file that nobody wrote carries a marker that looks like a swapped copy: no copy, if
      // unknown.
      const auto marked =
          markers(child.pid(), subtract(ranges_with(*living, {Care::private_file}), rig.current.ranges()));
      ASSERT_OK(marked);
      // Elsewhere the kernel itself writes while the parasite runs (rseq).
      const Ranges missed = intersect(subtract(subtract(*truth, *marked), *changed), ground.ranges());
      ASSERT_TRUE(missed.empty()) << count_pages(missed) << " pages missed in round " << round << ", the first at "
                                  << std::hex << missed[0].begin << " anonymous "
                                  << reinterpret_cast<std::uint64_t>(ground.anonymous) << " file "
                                  << reinterpret_cast<std::uint64_t>(ground.file) << " shared "
                                  << reinterpret_cast<std::uint64_t>(ground.shared);
      reported += count_pages(*changed);
      different += count_pages(*truth);

      const auto full = populated(*visit, *living, *changed);
      ASSERT_OK(full);
      const auto saved = rig.store->save(*visit, *full, zero_backed(*living));
      ASSERT_OK(saved);
      PageMap next = rig.current;
      next.replace(*changed, *saved);
      rig.store->retain(next.runs());
      rig.store->release(rig.current.runs());
      rig.current = next;
      ASSERT_EQ(rig.store->pages_used(), rig.current.pages());
      const auto nothing = (*judge)->changed(*visit, *living, rig.current, *rig.store);
      ASSERT_OK(nothing);
      EXPECT_TRUE(intersect(subtract(*nothing, *marked), ground.ranges()).empty())
          << "what was saved is not what is there";
      const auto armed = rig.tracker->arm(*visit, *living, *changed);
      ASSERT_OK(armed);
      EXPECT_TRUE(rig.tracker->notes().empty()) << rig.tracker->notes()[0];
    }
    task->resume();
    ASSERT_EQ(child.ask(static_cast<char>(1 + std::uniform_int_distribution<int>(0, 19)(random))), 'd');
  }
  RecordProperty("pages_reported", static_cast<int>(reported));
  RecordProperty("pages_different", static_cast<int>(different));
}

INSTANTIATE_TEST_SUITE_P(Trackers, TrackerTruth,
                         ::testing::Combine(::testing::Values(TrackerKind::uffd, TrackerKind::soft_dirty,
                                                              TrackerKind::compare),
                                            ::testing::Bool()),
                         [](const auto& test) {
                           const TrackerKind kind = std::get<0>(test.param);
                           const std::string name =
                               kind == TrackerKind::soft_dirty ? "soft_dirty" : std::string(tracker_name(kind));
                           return name + (std::get<1>(test.param) ? "_huge_pages" : "");
                         });

TEST(TrackerTest, TheProofNamesWhatThisMachineHas) {
  const auto proofs = prove_trackers();
  ASSERT_EQ(proofs.size(), 3U);
  for (const TrackerProof& proof : proofs) EXPECT_FALSE(proof.reason.empty());
  EXPECT_TRUE(proofs.back().works);
  EXPECT_EQ(parse_tracker("soft-dirty").value(), TrackerKind::soft_dirty);
  EXPECT_FALSE(parse_tracker("magic").has_value());
}

int idle(ChildEnd end) {
  end.say('r');
  for (;;) end.say(end.hear());
}

std::string maps_of(const Child& child) { return task::read_proc(child.pid(), "maps").value(); }

TEST(PageStoreTest, SavesGrowsReusesAndLeaves) {
  constexpr std::uint64_t kPages = 20000;  // more than the store begins with
  char* area = Playground::map(kPages, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  const Child child([&](ChildEnd end) {
    for (std::uint64_t page = 0; page < kPages; ++page) std::memcpy(area + page * kPageSize, &page, sizeof(page));
    ::mprotect(area + 7 * kPageSize, kPageSize, PROT_NONE);
    return idle(end);
  });
  auto task = FrozenTask::freeze(child.pid());
  ASSERT_OK(task);
  auto session = Session::infect(*task);
  ASSERT_OK(session);
  const std::size_t own_ranges = session->own_ranges().size();
  {
    auto visit = Visit::begin(*task, *session);
    ASSERT_OK(visit);
    auto store = PageStore::create(*visit);
    ASSERT_OK(store);
    EXPECT_NE(maps_of(child).find("/memfd:relive-pages"), std::string::npos);
    EXPECT_EQ(session->own_ranges().size(), own_ranges + 1);
    const auto begin = reinterpret_cast<std::uint64_t>(area);
    const Ranges all{{begin, begin + kPages * kPageSize}};
    const auto runs = store->save(*visit, all, all);
    ASSERT_OK(runs);
    store->retain(*runs);
    PageMap map;
    map.replace(all, *runs);
    EXPECT_EQ(map.pages(), kPages - 1) << "page 0 holds zeros";
    EXPECT_EQ(store->pages_used(), kPages - 1);
    for (std::uint64_t page = 1; page < kPages; ++page) {
      std::uint64_t seen = 0;
      std::memcpy(&seen, store->bytes(map.find(begin + page * kPageSize).value()).data(), sizeof(seen));
      ASSERT_EQ(seen, page);
    }
    std::uint64_t inside = 0;
    ASSERT_OK(task->read(store->address_in_task(map.find(begin + 19999 * kPageSize).value()),
                         std::as_writable_bytes(std::span(&inside, 1))));
    EXPECT_EQ(inside, 19999U) << "the window in the task has grown with it";

    const auto again = store->save(*visit, {{begin, begin + 10 * kPageSize}});
    ASSERT_OK(again);
    EXPECT_EQ(store->pages_used(), kPages - 1 + 10);
    store->release(*again);
    EXPECT_EQ(store->pages_used(), kPages - 1);
    store->retain(*runs);
    store->release(*runs);
    EXPECT_EQ(store->pages_used(), kPages - 1) << "another map still uses them";
    store->release(*runs);
    EXPECT_EQ(store->pages_used(), 0U);
    EXPECT_EQ(store->bytes((*runs)[0].slot)[0], std::byte{0}) << "memory of free slots is given back";
    const auto bad = store->save(*visit, {{begin, begin + kPageSize}, {0x1000, 0x2000}});
    ASSERT_FALSE(bad.has_value());
    EXPECT_EQ(store->pages_used(), 0U);
    ASSERT_OK(store->leave(*visit));
    EXPECT_EQ(maps_of(child).find("relive-pages"), std::string::npos);
    EXPECT_EQ(session->own_ranges().size(), own_ranges);
  }
  task->resume();
  EXPECT_EQ(child.ask('x'), 'x');
  ::munmap(area, kPages * kPageSize);
}

TEST(PopulatedTest, KnowsWhatHasContentsOfItsOwn) {
  const Playground ground;
  const Child child([&](ChildEnd end) {
    volatile char sink = 0;
    ground.anonymous[0] = 1;
    sink = ground.anonymous[2 * kPageSize];  // the page of zeros
    ground.file[0] = 1;
    sink = ground.file[2 * kPageSize];  // the file's page
    ground.shared[0] = 1;
    static_cast<void>(sink);
    ::mprotect(ground.anonymous, kPageSize, PROT_NONE);
    return idle(end);
  });
  auto task = FrozenTask::freeze(child.pid());
  ASSERT_OK(task);
  auto session = Session::infect(*task);
  ASSERT_OK(session);
  {
    auto visit = Visit::begin(*task, *session);
    ASSERT_OK(visit);
    const auto memory = capture::read_memory(*visit);
    ASSERT_OK(memory);
    const auto pages = populated(*visit, *memory);
    ASSERT_OK(pages);
    const auto has = [&](const char* address) {
      const auto begin = reinterpret_cast<std::uint64_t>(address);
      return !intersect(*pages, {{begin, begin + kPageSize}}).empty();
    };
    EXPECT_TRUE(has(ground.anonymous));
    EXPECT_FALSE(has(ground.anonymous + kPageSize));
    const auto pagemap = Pagemap::open(child.pid());
    ASSERT_OK(pagemap);
    if (pagemap->can_scan()) {  // before Linux 6.7 the page of zeros cannot be told from a page that is mapped twice
      EXPECT_FALSE(has(ground.anonymous + 2 * kPageSize));
    }
    EXPECT_TRUE(has(ground.file));
    EXPECT_FALSE(has(ground.file + kPageSize));
    EXPECT_FALSE(has(ground.file + 2 * kPageSize));
    EXPECT_TRUE(has(ground.shared));
    for (const AddressRange& own : session->own_ranges()) EXPECT_TRUE(intersect(*pages, {own}).empty());
  }
  task->resume();
}

}  // namespace
}  // namespace relive::tracking
